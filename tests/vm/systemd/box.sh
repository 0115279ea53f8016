#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A real systemd as PID 1 of its own namespaces, over a throw-away overlay of this machine's root:
#
#   box.sh start DIR        boots it; DIR/copy/ is laid over the root first (units, programs);
#                           exits 77 with the reason where that is not possible here, and 1 when
#                           it does not come up in time
#   box.sh run DIR COMMAND  runs a command inside
#   box.sh stop DIR         halts it and removes what it needed
#
# DIR must not lie where the box mounts something of its own: /tmp, /run, /dev, /proc, /sys.
set -eu
verb=$1
dir=$(realpath -m "$2")
shift 2
self=$(realpath "$0")

skip() { echo "skipped: $*"; exit 77; }
cgroup2() { awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts; }
init_pid() { cat "$dir/init.pid"; }

# In the new mount namespace, still with the old root: build the new one, enter it, become systemd.
become_init() {
  local root=$dir/root layer=$dir/layer unit device
  mkdir -p "$root" "$layer"
  mount -t tmpfs box "$layer"
  mkdir "$layer/upper" "$layer/work"
  mount -t overlay box -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs box "$root/dev" -o mode=755
  for device in null zero full random urandom tty fuse userfaultfd; do
    [ -e "/dev/$device" ] || continue
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/shm" "$root/dev/pts"
  ln -s /proc/self/fd "$root/dev/fd"
  ln -s pts/ptmx "$root/dev/ptmx"
  touch "$root/dev/console"
  mount -t tmpfs box "$root/run" -o mode=755
  mount -t tmpfs box "$root/tmp"
  # Only what a service needs: nothing that the machine itself has enabled.
  rm -rf "$root/etc/systemd/system"
  mkdir -p "$root/etc/systemd/system"
  : >"$root/etc/fstab"
  for unit in systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-udev-trigger.service systemd-logind.service systemd-networkd.service \
    systemd-resolved.service systemd-timesyncd.service systemd-sysctl.service \
    systemd-remount-fs.service systemd-random-seed.service systemd-firstboot.service \
    dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount; do
    ln -s /dev/null "$root/etc/systemd/system/$unit"
  done
  printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' \
    >"$root/etc/systemd/system/box.target"
  cp -r "$dir/copy/." "$root/"
  mkdir "$root/old"
  cd "$root"
  pivot_root . old
  cd /
  umount -l /old
  exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=box.target --show-status=no --log-target=console
}

# systemd gave up: it lacks something that it needs as PID 1.
is_frozen() { grep -aqs 'Freezing execution' "$dir/console"; }

start() {
  [ "$(id -u)" = 0 ] || skip "needs root"
  [ -x /lib/systemd/systemd ] || skip "no systemd (apt-get install systemd-sysv)"
  command -v systemctl >/dev/null || skip "no systemctl"
  local group
  group=$(cgroup2)
  [ -n "$group" ] || skip "no cgroup2 mounted"
  group=$group/ramfold-box.$$
  mkdir -p "$dir/copy"
  mkdir "$group" 2>/dev/null || skip "cannot make a cgroup"
  echo "$group" >"$dir/cgroup"
  unshare --mount --propagation private -- true 2>/dev/null || skip "cannot make namespaces"
  # The group first, so that the cgroup namespace is rooted in it and not in this machine's.
  setsid bash -c 'echo $$ >"$1/cgroup.procs"; exec unshare --pid --fork --kill-child --mount \
    --propagation private --cgroup --ipc --uts --net -- "$2" init "$3"' \
    box "$group" "$self" "$dir" </dev/null >"$dir/console" 2>&1 &
  echo $! >"$dir/box.pid"
  local end
  end=$((SECONDS + $(python3 "$(dirname "$self")/../../../scripts/patience.py" 60)))
  while kill -0 "$(cat "$dir/box.pid")" 2>/dev/null && ! is_frozen; do
    pgrep -P "$(cat "$dir/box.pid")" >"$dir/init.pid" 2>/dev/null || true
    if [ -s "$dir/init.pid" ] && run systemctl is-active box.target >/dev/null 2>&1; then return; fi
    if [ $SECONDS -ge $end ]; then
      tail -20 "$dir/console"
      stop
      echo "FAILED: systemd is not up in its namespaces after its time"
      exit 1
    fi
    sleep 0.1
  done
  tail -5 "$dir/console"
  stop
  skip "systemd cannot boot in its namespaces here"
}

run() {
  nsenter --target "$(init_pid)" --mount --pid --cgroup --ipc --uts --net --root --wd -- \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Only what this box started: its unshare(1), with which its PID 1 and all in it end.
stop() {
  local box
  box=$(cat "$dir/box.pid")
  kill -KILL "$box" 2>/dev/null || true
  for _ in $(seq 50); do
    find "$(cat "$dir/cgroup")" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    [ -d "$(cat "$dir/cgroup")" ] || break
    sleep 0.1
  done
}

case $verb in
  start) start ;;
  init) become_init ;;
  run) run "$@" ;;
  stop) stop ;;
  *) echo "unknown: $verb" >&2; exit 2 ;;
esac
