#!/bin/bash
# setup.sh   installs what the tests need: Debian packages (as root) and the test servers, built once into the cache
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package=([dig]=bind9-dnsutils [haproxy]=haproxy [nginx]=nginx-light [shellcheck]=shellcheck [yamllint]=yamllint [curl]=curl)
missing=()
for command in "${!package[@]}"; do
  PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "setup: installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "setup: not root, so ${missing[*]} cannot be installed; what needs it is left out below"
  fi
fi
go run ./e2e/testbed/cmd/build consul
