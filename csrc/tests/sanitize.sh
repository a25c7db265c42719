#!/bin/bash
# Builds the harness twice and runs it: for reads and writes outside of buffers and undefined behaviour, then for data races.
# The second build has std::thread in place of OpenMP, whose synchronisation the thread sanitizer does not see.
set -eu
cd "$(dirname "$0")/.."
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
export TSAN_OPTIONS=halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1

sanitized() {  # sanitizers, flags for the compiler
    echo "== dither_harness with -fsanitize=$1"
    cmake -S . -B "$build/$1" -DDITHER_TESTS=ON -DDITHER_SANITIZE="$1" -DCMAKE_CXX_FLAGS="$2" > "$build/log"
    cmake --build "$build/$1" --target dither_harness --parallel 2 > "$build/log"
    "$build/$1/dither_harness" brief
}

# g++ 12 warns of its own AVX-512 header when it instruments that.
sanitized address,undefined "-Wno-uninitialized"
sanitized thread "-Wno-uninitialized -DDITHER_STD_THREADS"
echo "== no finding"
