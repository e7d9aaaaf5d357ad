#!/bin/sh
# The supervisor starts this with the address to serve on.
#
# All packages are in lib/, next to this file; only Python itself is taken from the PATH. Some of the packages are
# compiled, so it must be of the version they were installed for, which python-version has.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
read -r wanted <"$here/python-version"

python=python$wanted
command -v "$python" >/dev/null || python=python3
if ! "$python" -I -S -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != sys.argv[1])' "$wanted"; then
    echo "this backend needs Python $wanted, and there is none on the PATH; build it for the one that you have" >&2
    exit 1
fi

# -S and -s leave out what happens to be installed for that Python, and -B writes nothing into the release.
# exec, so that the process which the supervisor started is the one that serves.
PYTHONPATH=$here/lib exec "$python" -S -s -B "$here/backend.py" "$@"
