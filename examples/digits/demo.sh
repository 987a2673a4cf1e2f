#!/bin/sh
# Run both policies of the example; needs `qebgate` on the PATH (`make demo` sees to that).
# Exits with 0 when the first one passes and the second one fails, as they should.
set -u
cd "$(dirname "$0")/../.." || exit 70

run() {
    echo "\$ $*"
    "$@"
    code=$?
    echo "exit code $code"
}

run qebgate check examples/digits/qebgate.yaml
passing=$code
echo
run qebgate check examples/digits/failing.yaml
failing=$code

if [ "$passing" -ne 0 ] || [ "$failing" -ne 1 ]; then
    echo "the demo should end with the exit codes 0 and 1" >&2
    exit 1
fi
