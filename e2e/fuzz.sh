#!/bin/bash
# fuzz.sh DURATION   runs every fuzz target of the repository for DURATION, one after the other; fails if any found something
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 1 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
bad=0
while IFS=: read -r file target; do
  target=${target#func }
  echo "fuzz: $target in ${file%/*}"
  if ! go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" -fuzzminimizetime 10x "./${file%/*}" >"$log" 2>&1; then
    # The go command also fails when the time ends in the middle of an execution. Then it has found nothing.
    if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"; then continue; fi
    cat "$log"
    bad=1
  fi
done < <(git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go')
exit "$bad"
