# What scripts/demo and scripts/test share: environments, and knowing when they are out of date. To be sourced from the
# root of the checkout.

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME  # what is tested is what is installed

say() { printf '== %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# fingerprint PATH...: one word that changes when a file under these paths does.
fingerprint() {
    find "$@" -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' ! -name '*.so' -print0 \
        | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# What a build of the package reads.
PACKAGE_FILES=(pyproject.toml setup.py MANIFEST.in LICENSE README.md src)

# copy_package DIRECTORY: what a build reads, without what earlier builds left in the checkout.
copy_package() {
    rm -rf "$1"
    mkdir -p "$1"
    tar -cf - --exclude=__pycache__ --exclude='*.egg-info' --exclude='*.so' "${PACKAGE_FILES[@]}" | tar -xf - -C "$1"
}

# make_environment PYTHON DIRECTORY: a virtual environment with a recent pip, kept if it still works and is of this Python.
make_environment() {
    local python=$1 directory=$2 stamp
    stamp=$("$python" -c 'import sys; print(sys.executable, sys.version)')
    if [[ -f $directory/.python && $(<"$directory/.python") == "$stamp" ]] && "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    rm -rf "$directory"
    # Debian's python3 comes without ensurepip, which is in python3-venv; any pip outside can stand in for it.
    if ! "$python" -m venv "$directory" >/dev/null 2>&1; then
        rm -rf "$directory"
        { "$python" -m venv --without-pip "$directory" && "$python" -m pip --python "$directory/bin/python" install --quiet pip; } >/dev/null 2>&1 \
            || "$python" -m virtualenv --quiet "$directory" >/dev/null 2>&1 \
            || die "cannot make a virtual environment with $python: on Debian, apt-get install python3-venv python3-pip"
    fi
    "$directory/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'  # 25.1 knows dependency groups
    printf '%s' "$stamp" >"$directory/.python"
}

# once STAMP_FILE FINGERPRINT COMMAND...: runs the command unless it has already succeeded for this fingerprint.
once() {
    local stamp=$1 wanted=$2
    shift 2
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    rm -f "$stamp"
    "$@" || return
    printf '%s' "$wanted" >"$stamp"
}
