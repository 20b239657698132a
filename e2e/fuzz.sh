#!/bin/bash
# fuzz.sh DURATION   runs every fuzz target of the repository for DURATION, one after the other
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 1 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | while IFS=: read -r file target; do
  target=${target#func }
  echo "fuzz: $target in ${file%/*}"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "./${file%/*}"
done
