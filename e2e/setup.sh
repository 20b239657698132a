#!/bin/bash
# setup.sh   installs what the tests need: Debian packages (as root), a stock Envoy and the test servers (into the cache)
# The servers are compiled once on a machine, which takes ten to fifteen minutes of two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=e2e/install.sh
. e2e/install.sh

# gcc is what the race detector links with; ZooKeeper and a Curator client are Debian's, and javac is what java runs a
# source file with.
install_packages gcc=build-essential dig=bind9-dnsutils unbound-host=unbound-host unbound=unbound dnsmasq=dnsmasq-base kdig=knot-dnsutils knotd=knot nsd=nsd dnsperf=dnsperf drill=ldnsutils zonemaster-cli=zonemaster-cli kzonecheck=knot-dnssecutils named-checkzone=bind9-utils haproxy=haproxy nginx=nginx-light shellcheck=shellcheck yamllint=yamllint \
  curl=curl pgrep=procps pip3=python3-pip named=bind9 fstrm_capture=fstrm-bin ip=iproute2 unshare=util-linux nft=nftables \
  slowhttptest=slowhttptest openssl=openssl systemd-analyze=systemd \
  java=default-jre-headless javac=default-jdk-headless /usr/share/java/zookeeper.jar=libzookeeper-java \
  /usr/share/java/netty-codec.jar=libnetty-java /usr/share/java/slf4j-simple.jar=libslf4j-java \
  /usr/share/java/curator-x-discovery.jar=libcurator-discovery-java
if [ "$(id -u)" = 0 ]; then
  install_packages lxc-start=lxc mmdebstrap=mmdebstrap
  e2e/hosts.sh rootfs
fi
install_envoy

go run ./e2e/testbed/cmd/build
