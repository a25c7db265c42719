#!/bin/bash
# The noise under SmallCrush of TestU01 (github.com/umontreal-simul/TestU01-2009; in Debian's non-free, libtestu01-0-dev) with
# the seeds that are given, or four. Where the compiler does not find TestU01, CPATH and LIBRARY_PATH say where it is.
set -eu -o pipefail
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
[ $# -gt 0 ] || set -- 0 1 2 0x123456789abcdef
cmake -S . -B "$build" -DDITHER_TESTS=ON > "$build/log"
cmake --build "$build" --target dither_stream --parallel 2 > "$build/log"
"$build/dither_stream" "$@" | grep -E ' p = |p-values|are not'
