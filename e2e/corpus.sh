#!/bin/bash
# corpus.sh [TARGET...]   adds the best of what `make fuzz` found, of every fuzz target or of these, to its testdata/fuzz, to be committed
#
# What the go command found lies in its cache, and nobody else has it. Of a target's inputs of 4 KB at most, 128 of all sizes are
# run one by one; those that run what nothing committed runs are taken first, then others of all sizes, until the target has 16
# inputs or 32 KB. What is committed already stays, so that a target which is full gets nothing: remove its folder to choose anew.
set -euo pipefail
cd "$(dirname "$0")/.."
inputs=16 bytes=32768
cache=$(go env GOCACHE)/fuzz/$(go list -m)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# spread N prints N of the lines that it reads, evenly, the first and the last among them.
spread() {
  awk -v n="$1" '{ l[NR] = $0 } END { if (n > NR) n = NR; for (i = 0; i < n; i++) print l[n == 1 ? 1 : 1 + int(i * (NR - 1) / (n - 1))] }'
}

# covered DIR RUN prints the blocks of code that the package in DIR runs in the fuzz inputs named RUN.
covered() {
  (cd "$1" && timeout 20 "$tmp/test" -test.run "$2" -test.coverprofile "$tmp/profile") >/dev/null 2>&1 || return 1
  awk 'FNR > 1 && $3 > 0 { print $1 }' "$tmp/profile"
}

# choose DIR TARGET prints the names of the inputs to take, the best first.
choose() {
  local found=$cache/$1/$2 each
  rm -rf "$tmp/runs"
  mkdir "$tmp/runs"
  covered "$1" "^$2\$" >"$tmp/base" || { echo "corpus: $2 fails with what is committed" >&2; return 1; }
  find "$found" -type f -size -4097c -printf '%s %f\n' | sort -n | spread 128 | cut -d' ' -f2 >"$tmp/candidates"
  while read -r each; do
    [ ! -e "$1/testdata/fuzz/$2/$each" ] || continue
    cp "$found/$each" "$1/testdata/fuzz/$2/"
    # Inputs fail that were found for other arguments than the target has now.
    covered "$1" "^$2\$/^$each\$" >"$tmp/runs/$each" || { echo "corpus: $2/$each fails, left out" >&2; rm "$tmp/runs/$each"; }
    rm "$1/testdata/fuzz/$2/$each"
  done <"$tmp/candidates"
  # The input that runs most of what is not run yet comes next, as long as there is one.
  (cd "$tmp/runs" && shopt -s nullglob && awk '
    FILENAME == "../base" { seen[$0] = 1; next }
    { runs[FILENAME] = runs[FILENAME] " " $0 }
    END {
      do {
        best = ""; most = 0
        for (f in runs) {
          n = split(runs[f], block, " "); gain = 0
          for (i = 1; i <= n; i++) gain += !(block[i] in seen)
          if (gain > most || gain && gain == most && f < best) { best = f; most = gain }
        }
        if (best != "") { print substr(best, 3); n = split(runs[best], block, " "); for (i = 1; i <= n; i++) seen[block[i]] = 1; delete runs[best] }
      } while (best != "")
    }' ../base ./*)
  while read -r each; do [ ! -e "$tmp/runs/$each" ] || echo "$each"; done <"$tmp/candidates" | spread "$inputs"
}

built=
while IFS=: read -r file target; do
  target=${target#func }
  dir=${file%/*}
  [ $# = 0 ] || [[ " $* " == *" $target "* ]] || continue
  corpus=$dir/testdata/fuzz/$target
  [ -d "$cache/$dir/$target" ] || { echo "corpus: $target was never run: make fuzz"; continue; }
  [ "$built" = "$dir" ] || go test -c -cover -o "$tmp/test" "./$dir"
  built=$dir
  mkdir -p "$corpus"
  choose "$dir" "$target" >"$tmp/chosen"
  while read -r each; do
    [ ! -e "$corpus/$each" ] || continue
    (($(find "$corpus" -type f | wc -l) < inputs)) || break
    # The size is that of all files and of this one.
    (($(cat "$corpus"/* "$cache/$dir/$target/$each" 2>/dev/null | wc -c) <= bytes)) || continue
    cp "$cache/$dir/$target/$each" "$corpus/"
  done <"$tmp/chosen"
  rmdir "$corpus" 2>/dev/null || true
  echo "corpus: $target has $(find "$corpus" -type f 2>/dev/null | wc -l) inputs, $(cat "$corpus"/* 2>/dev/null | wc -c) bytes"
done < <(git grep -oE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go')
