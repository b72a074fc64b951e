#!/bin/sh
# Where a request for a model would go, and why: the router's own decision. No model is called.
# Usage: test-routing.sh MODEL [--endpoint ENDPOINT] [--needs NEEDS] [--assume-down BACKEND]... [--json]
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
if [ -x "$here/.venv/bin/aigw" ]; then
    exec "$here/.venv/bin/aigw" test-routing --explain "$@"
fi
exec aigw test-routing --explain "$@"
