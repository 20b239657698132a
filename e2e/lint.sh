#!/bin/bash
# lint.sh GOFUMPT STATICCHECK   formatting, vet, staticcheck, shellcheck, yamllint; prints what is wrong, fails if anything is
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 2 ] || { sed -n '2s/^# /usage: /p' "$0" >&2; exit 2; }
read -ra gofumpt <<<"$1"
read -ra staticcheck <<<"$2"

unformatted=$("${gofumpt[@]}" -l .)
[ -z "$unformatted" ] || { printf 'lint: not gofumpt-ed:\n%s\n' "$unformatted" >&2; exit 1; }
go vet ./...
"${staticcheck[@]}" ./...
# These two are Debian packages; setup.sh installs them as root and says so when it cannot.
if command -v shellcheck >/dev/null && command -v yamllint >/dev/null; then
  git ls-files '*.sh' .ci/run | xargs -r shellcheck -x
  git ls-files '*.yaml' '*.yml' | xargs -r yamllint -s
else
  echo "lint: left out shellcheck and yamllint: they are not installed (make setup, as root)"
  [ -z "${HOSTMESH_NOTHING_LEFT_OUT:-}" ] || exit 1
fi
