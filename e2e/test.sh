#!/bin/bash
# test.sh [GO TEST FLAG..]   runs all tests; says which suites it leaves out when it is not root, and why
set -euo pipefail
cd "$(dirname "$0")/.."
left_out=()
reason=()
if ! command -v dig >/dev/null; then
  left_out+=(Dig)
  reason+=("those with dig: it is not installed, and installing it needs root")
fi
if [ ! -x "${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh/envoy-1.40.0/envoy/_bin/envoy" ]; then
  left_out+=(Envoy)
  reason+=("those with a stock Envoy: pip3 is not there to install it, and installing that needs root")
fi
if [ "$(id -u)" != 0 ] && [ "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" -gt 80 ]; then
  left_out+=(Port80)
  reason+=("those on port 80: binding it needs root or net.ipv4.ip_unprivileged_port_start=80")
fi
if [ "$(id -u)" != 0 ] && [ "$(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)" -gt 53 ]; then
  left_out+=(Port53)
  reason+=("those on port 53: binding it needs root or net.ipv4.ip_unprivileged_port_start=53")
fi
if [ ! -e /usr/share/java/curator-x-discovery.jar ] || ! command -v javac >/dev/null; then
  left_out+=(Curator)
  reason+=("those with Curator: it is not installed, and installing it needs root")
fi
if ! PATH=$PATH:/usr/sbin command -v haproxy >/dev/null; then
  left_out+=(HAProxy)
  reason+=("those with HAProxy: it is not installed, and installing it needs root")
fi
if ! command -v slowhttptest >/dev/null; then
  left_out+=(SlowHTTPTest)
  reason+=("those with slowhttptest: it is not installed, and installing it needs root")
fi
if [ ! -x /usr/sbin/nft ]; then
  left_out+=(Nft)
  reason+=("those with nftables: it is not installed, and installing it needs root")
fi
if ! command -v kdig >/dev/null; then
  left_out+=(Kdig)
  reason+=("those with kdig: it is not installed, and installing it needs root")
fi
if ! command -v fstrm_capture >/dev/null || ! command -v dnstap-read >/dev/null; then
  left_out+=(DnstapTools)
  reason+=("those with receivers of dnstap: they are not installed, and installing them needs root")
fi
if ! command -v delv >/dev/null || ! PATH=$PATH:/usr/sbin command -v unbound-host >/dev/null; then
  left_out+=(Validators)
  reason+=("those with delv and unbound-host: they are not installed, and installing them needs root")
fi
if ! PATH=$PATH:/usr/sbin command -v unbound >/dev/null || ! PATH=$PATH:/usr/sbin command -v named >/dev/null; then
  left_out+=(Resolvers)
  reason+=("those with Unbound and BIND as resolvers: they are not installed, and installing them needs root")
fi
if [ "$(id -u)" != 0 ] || ! command -v lxc-start >/dev/null; then
  left_out+=(SystemdHost)
  reason+=("those on a host with systemd of its own: making one needs root and lxc")
fi
for server in nsd knotd named; do
  if ! PATH=$PATH:/usr/sbin command -v "$server" >/dev/null; then
    left_out+=(Secondaries)
    reason+=("those with NSD, Knot and BIND as secondaries: $server is not installed, and installing it needs root")
    break
  fi
done
if ! command -v drill >/dev/null; then
  left_out+=(Drill)
  reason+=("those with drill: it is not installed, and installing it needs root")
fi
for checker in zonemaster-cli kzonecheck ldns-verify-zone named-checkzone; do
  if ! PATH=$PATH:/usr/sbin command -v "$checker" >/dev/null; then
    left_out+=(ZoneCheckers)
    reason+=("those with checkers of zones: $checker is not installed, and installing it needs root")
    break
  fi
done
for program in nsd knotd dnsperf; do
  if ! PATH=$PATH:/usr/sbin command -v "$program" >/dev/null; then
    left_out+=(DNSPerf)
    reason+=("those that measure NSD and Knot with dnsperf: $program is not installed, and installing it needs root")
    break
  fi
done
# These are left out where they are started, whatever the test is called: package testbed reads the list.
servers=()
if [ ! -e /usr/share/java/zookeeper.jar ] || ! command -v java >/dev/null; then
  servers+=(ZooKeeper)
  reason+=("those with ZooKeeper: it is not installed, and installing it needs root")
fi
if ! PATH=$PATH:/usr/sbin command -v named >/dev/null; then
  servers+=(Named)
  reason+=("those with BIND: named is not installed, and installing it needs root")
fi
if [ "$(id -u)" != 0 ]; then
  servers+=(Namespace)
  reason+=("those in a network namespace: making one needs root")
fi
export HOSTMESH_LEFT_OUT="${servers[*]}"
if [ ${#reason[@]} -gt 0 ]; then
  printf 'test: left out %s\n' "${reason[@]}"
  [ -z "${HOSTMESH_NOTHING_LEFT_OUT:-}" ] || { echo 'test: nothing may be left out here' >&2; exit 1; }
  [ ${#left_out[@]} = 0 ] || set -- "$@" -skip "$(IFS='|'; echo "${left_out[*]}")"
fi
# The system tests share two cores with the servers they start and measure how long things take: they run alone. The packages run two
# at a time.
failed=0
go test "$@" ./e2e || failed=1
mapfile -t packages < <(go list ./... | grep -v '/e2e$')
go test "$@" -p 2 "${packages[@]}" || failed=1
exit "$failed"
