# What the scripts here share. Sourced by them, from the checkout's root, and written for any POSIX sh.

# Prints the Python to use: $PYTHON if set, else the newest on PATH that aigw can run on and that can make a virtual
# environment, else any that aigw can run on. Each is tried, for a name on PATH may be an empty shim.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3
    fi
    for test in 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
        'import sys; sys.exit(sys.version_info < (3, 11))'; do
        for name in "$@"; do
            if "$name" -c "$test" >/dev/null 2>&1; then
                command -v "$name"
                return 0
            fi
        done
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "cannot use PYTHON=$PYTHON: aigw needs Python 3.11 or newer, and this is $(python_version "$PYTHON")." >&2
    else
        echo "cannot find Python 3.11 or newer on PATH (python3 is $(python_version python3)): install one" \
            "(on Debian and Ubuntu: sudo apt install python3.11 python3.11-venv), or name it: PYTHON=/path/to/python." >&2
    fi
    return 1
}

python_version() {
    version=$("$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || version=missing
    echo "$version"
}

# Runs a module of scripts/setup by a bare Python: setup MODULE [ARGUMENT...]
setup() {
    module=$1
    shift
    PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 "$python" -m "scripts.setup.$module" "$@"
}
