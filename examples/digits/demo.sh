#!/bin/sh
# Run both policies of the example; needs `qebgate` on the PATH (`make demo` sees to that).
# Exits with 0 when the first one passes and the second one fails, as they should.
set -u
cd "$(dirname "$0")" || exit 70

echo '$ qebgate check examples/digits/qebgate.yaml'
qebgate check qebgate.yaml
passing=$?
echo "exit code $passing"
echo
echo '$ qebgate check examples/digits/failing.yaml'
qebgate check failing.yaml
failing=$?
echo "exit code $failing"

if [ "$passing" -ne 0 ] || [ "$failing" -ne 1 ]; then
    echo "the demo should end with the exit codes 0 and 1" >&2
    exit 1
fi
