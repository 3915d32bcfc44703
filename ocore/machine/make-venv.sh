#!/bin/sh
# make-venv.sh FOLDER REQUIREMENTS: the virtual environment, made where it is missing, with these requirements.
# Shell, because on a bare machine there is no Python yet, or one without venv; then Debian's is installed.
set -eu
folder=$1
requirements=$2
python=${PYTHON:-python3}

fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    if ! fits "$python"; then
        if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
            echo "oCore needs Python 3.11 or newer with its venv module; '$python' is not that." >&2
            if command -v apt-get >/dev/null; then
                echo "Run: sudo apt-get install python3 python3-venv" >&2
            else
                echo "Install it with your system's package manager, or name another: make PYTHON=/path/to/python3" >&2
            fi
            exit 1
        fi
        echo "Installing Debian's python3 and python3-venv ..."
        export DEBIAN_FRONTEND=noninteractive
        set -- apt-get -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends install python3 python3-venv
        "$@" || { apt-get update && "$@"; }
        python=/usr/bin/python3
        fits "$python" || { echo "Debian's Python here is older than 3.11; oCore needs Debian 12 or newer." >&2; exit 1; }
    fi
    echo "Making the virtual environment $folder ..."
    "$python" -m venv --clear "$folder"
fi
echo "Installing $requirements into $folder ..."
"$folder/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off -r "$requirements"
