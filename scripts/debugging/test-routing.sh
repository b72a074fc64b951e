#!/bin/sh
# Where a request for a model would go, and why: the router's own decision. No model is called.
# Usage: scripts/debugging/test-routing.sh MODEL [--assume-down BACKEND]... [--json]
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
if [ -x "$here/.venv/bin/aigw" ]; then
    exec "$here/.venv/bin/aigw" test-routing --explain "$@"
fi
exec aigw test-routing --explain "$@"
