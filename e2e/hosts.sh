#!/bin/bash
# hosts.sh rootfs | up N | run hK CMD.. | down   N Debian hosts with systemd as process 1: LXC containers over one root file system
# It needs root, lxc and mmdebstrap. The root file system is made once, in HOSTS_CACHE; what a host writes is in HOSTS_DIR, and
# goes with down. One set of hosts at a time: the names of links are fixed.
set -euo pipefail
cache=${HOSTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh/hosts}
dir=$(realpath -m "${HOSTS_DIR:-$cache/run}")
root=$cache/rootfs
net=10.77.7
bridge=meshtest0
packages=systemd,systemd-sysv,dbus,systemd-resolved,iproute2,curl,bind9-dnsutils,procps,network-manager,dnsmasq-base

rootfs() {
  [ "$(cat "$cache/done" 2>/dev/null)" != "$packages" ] || return 0
  mkdir -p "$cache"
  rm -rf "$root"
  mmdebstrap -q --variant=minbase --mode=root --include=$packages --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' bookworm "$root"
  : >"$root/etc/machine-id"
  rm -f "$root/etc/hostname"
  for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer console-getty.service getty@.service \
    NetworkManager.service NetworkManager-wait-online.service NetworkManager-dispatcher.service wpa_supplicant.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  echo "$packages" >"$cache/done"
}

# attach runs a command in a host as its root.
attach() {
  local host=$1
  shift
  lxc-attach -P "$dir" -n "$host" --clear-env --set-var "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin" -- "$@"
}

up() {
  local k host state
  ip link show "$bridge" >/dev/null 2>&1 || ip link add "$bridge" type bridge
  ip addr replace "$net.1/24" dev "$bridge"
  ip link set "$bridge" up
  for k in $(seq "$1"); do
    host=h$k
    mkdir -p "$dir/$host/delta/etc" "$dir/$host/rootfs"
    echo "$host" >"$dir/$host/delta/etc/hostname"
    printf '127.0.0.1 localhost\n%s.%d %s\n' "$net" $((10 + k)) "$host" >"$dir/$host/delta/etc/hosts"
    tr -d - </proc/sys/kernel/random/uuid >"$dir/$host/delta/etc/machine-id"
    cat >"$dir/$host/config" <<END
lxc.include = /usr/share/lxc/config/common.conf
lxc.uts.name = $host
lxc.rootfs.path = overlay:$root:$dir/$host/delta
lxc.init.cmd = /lib/systemd/systemd
lxc.apparmor.profile = unconfined
lxc.net.0.type = veth
lxc.net.0.link = $bridge
lxc.net.0.flags = up
lxc.net.0.veth.pair = mesh-$host
lxc.net.0.hwaddr = 02:00:0a:4d:07:$(printf %02x $((10 + k)))
lxc.net.0.ipv4.address = $net.$((10 + k))/24
END
    lxc-start -P "$dir" -n "$host" -o "$dir/$host/log" || { tail -5 "$dir/$host/log" >&2; return 1; }
  done
  for k in $(seq "$1"); do
    for _ in $(seq 300); do
      [ ! -S "$dir/h$k/rootfs/run/dbus/system_bus_socket" ] || break
      attach "h$k" test -S /run/dbus/system_bus_socket 2>/dev/null && break
      sleep .1
    done
    state=$(attach "h$k" systemctl is-system-running --wait) || true
    [ "$state" = running ] || { echo "h$k is ${state:-not reached}, want running" >&2; attach "h$k" systemctl --failed --no-pager >&2; return 1; }
  done
}

down() {
  local host
  for host in "$dir"/h*/; do
    [ -d "$host" ] || continue
    lxc-stop -k -P "$dir" -n "$(basename "$host")" 2>/dev/null || true
    rm -rf "$host"
  done
  ip link del "$bridge" 2>/dev/null || true
}

command=${1:-}
shift || true
case $command in
rootfs | down) "$command" ;;
up) up "$@" ;;
run) attach "$@" ;;
*)
  sed -n '2s/^# //p' "$0" >&2
  exit 2
  ;;
esac
