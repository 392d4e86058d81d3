#!/usr/bin/env bash
# Packs what a launcher's executors need of .venv for spark-submit --archives FILE#environment, with the wheel in place
# of this checkout: cluster/pack.sh WHEEL LAUNCHER FILE [NAME...]. Each NAME in site-packages is left out too.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '%s\n' "$*" >&2; }
bad() { say "pack: $1"; exit 2; }

[ $# -ge 3 ] || bad "expected a wheel, a launcher and a file to write, got '$*'"
wheel=$1 launcher=$2 archive=$3
shift 3
# Of a .tar or .zip, Spark keeps neither links nor permissions.
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

# Executors have Spark, and build and test nothing.
leave_out=('__editable__*' pyspark cmake clang moto torch/include torch/test tensorflow/include "${other[@]}" "$@")
# No tool is needed to move a virtual environment that is asked for by its bin/python: that is a link to the Python it
# was made with, which finds the rest beside the link.
tar --create --use-compress-program='gzip -1' --file "$archive" "${leave_out[@]/#/--exclude=$packages/}" \
    --directory="$root/.venv" pyvenv.cfg bin/python bin/python3 bin/python3.11 "$packages" \
    --directory="$staging" "$packages"
say "pack: executors need $(readlink -f "$python") as well, at the same path"
ls "$archive"
