#!/usr/bin/env bash
# Packs an environment for spark-submit --archives FILE#environment: the packages of .venv that a launcher's executors
# need, with the wheel in place of this checkout. Usage: cluster/pack.sh WHEEL LAUNCHER FILE [NAME...]. Each NAME is a
# file or folder in site-packages to leave out as well.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '%s\n' "$*" >&2; }
bad() { say "pack: $1"; exit 2; }

[ $# -ge 3 ] || bad "expected WHEEL LAUNCHER FILE, got '$*'; run make env-archive"
wheel=$1 launcher=$2 archive=$3
shift 3
# Spark keeps links and permissions only for .tar.gz, not for .tar or .zip.
[[ $archive == *.tar.gz ]] || bad "expected a file name that ends in .tar.gz, got '$archive'"
case $launcher in
horovod) other=('torch*' functorch) ;;
torch) other=('tensorflow*' 'horovod*') ;;
*) bad "expected the launcher horovod or torch, got '$launcher'" ;;
esac

python=$root/.venv/bin/python
packages=$("$python" -c 'import os, sys, sysconfig; print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')
staging=$(mktemp --directory)
trap 'rm -r "$staging"' EXIT
"$python" -m pip install --quiet --no-deps --disable-pip-version-check --target "$staging/$packages" "$wheel"

# Executors have Spark themselves, and they neither build nor test.
leave_out=('__editable__*' pyspark cmake clang moto torch/include torch/test tensorflow/include "${other[@]}" "$@")
# A virtual environment that is started by its bin/python can be moved: bin/python is a link to the Python that made the
# environment, and Python looks for the packages beside the link.
tar --create --use-compress-program='gzip -1' --file "$archive" "${leave_out[@]/#/--exclude=$packages/}" \
    --directory="$root/.venv" pyvenv.cfg bin/python bin/python3 bin/python3.11 "$packages" \
    --directory="$staging" "$packages"
say "pack: every executor also needs $(readlink -f "$python") at this path"
ls "$archive"
