# shellcheck shell=bash disable=SC2154
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the guests of guests.sh are made of: packages, and the files that are laid over them. Sourced
# by guests.sh, whose variables it uses.
set -euo pipefail

items=512  # pages that the web server has, and keys that redis is given

web_packages=systemd-sysv,udev,dbus,nginx-light,iproute2,procps,kmod
kv_packages=redis-server,iproute2,procps,kmod
db_packages=postgresql,iproute2,procps,kmod
script_packages=python3,iproute2,procps,kmod

web_files() {
  local tree=$1 unit
  local units=$tree/etc/systemd/system
  mkdir -p "$tree/srv/pages" "$units/multi-user.target.wants"
  "$tree/usr/local/sbin/ramcheck" pages "$tree/srv/pages" "$items"
  # A link with an absolute target: never write through it.
  rm "$tree/etc/nginx/sites-enabled/default"
  cat >"$tree/etc/nginx/conf.d/pages.conf" <<'F'
server {
  listen 127.0.0.1:80 default_server;
  root /srv/pages;
  access_log /var/log/nginx/access.log;
}
F
  cat >"$units/ramcheck.service" <<F
[Unit]
After=nginx.service
Wants=nginx.service
[Service]
ExecStart=/usr/local/sbin/ramcheck run --files 32 /usr/lib --files 8 /usr/share --records 16 \\
  --web 80 --items $items
StandardError=tty
TTYPath=/dev/ttyS0
F
  cat >"$units/guest-ready.service" <<'F'
[Unit]
After=ramcheck.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'until ramcheck ask state >/dev/null 2>&1; do sleep 0.2; done; \
  echo "GUEST-READY up=$(cut -d" " -f1 /proc/uptime)"'
StandardOutput=tty
TTYPath=/dev/ttyS0
F
  cat >"$units/guest-shell.service" <<'F'
[Service]
Environment=HOME=/root
ExecStart=/bin/sh -c 'stty -echo -onlcr; sh 2>&1 | cat'
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
Restart=always
RestartSec=0
F
  for unit in ramcheck guest-ready guest-shell; do
    ln -sf "../$unit.service" "$units/multi-user.target.wants/$unit.service"
  done
  # What a guest without network, console and updates only waits for.
  for unit in serial-getty@ttyS0.service getty@tty1.service systemd-timesyncd.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer \
    systemd-random-seed.service systemd-udev-trigger.service systemd-logind.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-journal-flush.service \
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service \
    modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service \
    proc-sys-fs-binfmt_misc.automount; do
    ln -sf /dev/null "$units/$unit"
  done
}

# minimal_init TREE NAME SERVICE: an init that mounts what programs expect, runs SERVICE, a function
# that prints lines of shell, and says that it is ready once those have run.
minimal_init() {
  local tree=$1 name=$2 service=$3
  {
    cat <<F
#!/bin/sh
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C TERM=dumb
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for at in /dev/shm /run /tmp; do mount -t tmpfs tmpfs \$at; done
chmod 1777 /tmp /dev/shm
ip link set lo up
hostname $name
exec </dev/null >/dev/ttyS0 2>&1
F
    "$service"
    cat <<'F'
echo "GUEST-READY up=$(cut -d' ' -f1 /proc/uptime)"
stty -F /dev/ttyS1 -echo -onlcr
while :; do setsid sh -c 'sh 2>&1 | cat' </dev/ttyS1 >/dev/ttyS1 2>&1; sleep 0.2; done
F
  } >"$tree/sbin/guest-init"
  chmod 755 "$tree/sbin/guest-init"
}

kv_service() {
  cat <<F
redis-server --daemonize yes --bind 127.0.0.1 --port 6379 --save '' --dir /tmp >/dev/null
ramcheck run --files 24 /usr/lib --files 8 /usr/bin --records 16 \\
  --redis 6379 --items $((items * 2)) &
until ramcheck ask state >/dev/null 2>&1; do sleep 0.2; done
F
}
kv_files() { minimal_init "$1" kv kv_service; }

db_service() {
  cat <<'F'
mkdir -p -m 1777 /run/postgresql
cluster=$(ls /etc/postgresql)
pg_ctlcluster "$cluster" main start
until runuser -u postgres -- psql -qc 'select 1' >/dev/null 2>&1; do sleep 0.2; done
F
}
# Accounts that are paid from and to, as pgbench has them: 300,000 rows.
db_files() {
  local tree=$1
  minimal_init "$tree" db db_service
  cat >"$tree/usr/local/sbin/guest-load" <<'F'
#!/bin/sh
set -eu
bench=$(echo /usr/lib/postgresql/*/bin/pgbench)
as() { runuser -u postgres -- "$@"; }
as psql -qc 'select 1 from pgbench_accounts limit 1' >/dev/null 2>&1 || as "$bench" -q -i -s 3
as "$bench" -n -c 4 -t 150
as "$bench" -n -S -c 4 -t 500
F
  chmod 755 "$tree/usr/local/sbin/guest-load"
}

script_service() {
  cat <<'F'
python3 /usr/local/lib/catalogue.py serve 8000 &
until python3 /usr/local/lib/catalogue.py ask 8000 1 >/dev/null 2>&1; do sleep 0.2; done
F
}
script_files() {
  local tree=$1
  minimal_init "$tree" script script_service
  cp "$source_dir/catalogue.py" "$tree/usr/local/lib/catalogue.py"
  printf '#!/bin/sh\nexec python3 /usr/local/lib/catalogue.py ask 8000\n' \
    >"$tree/usr/local/sbin/guest-load"
  chmod 755 "$tree/usr/local/sbin/guest-load"
}
