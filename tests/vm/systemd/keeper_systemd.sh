#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The keeper and the units under a real systemd: what a killed keeper gets back, what is refused,
# and that the daemon is left alone. keeper_systemd.sh SOURCE_ROOT KEEPER PROBE
set -eu
source=$1 keeper=$2 probe=$3
here=$(dirname "$(realpath "$0")")
dir=$(mktemp -d /var/tmp/ramfold-box-XXXXXX)
box() { "$here/box.sh" run "$dir" "$@"; }
finish() {
  local code=$?
  set +e
  if [ $code != 0 ] && [ $code != 77 ]; then
    box systemctl status --no-pager -l ramfold-keeper ramfold
    box tail -40 /dev/console
  fi
  [ -e "$dir/box.pid" ] && "$here/box.sh" stop "$dir"
  rm -rf "$dir"
  exit $code
}
trap finish EXIT
die() { echo "FAILED: $*"; exit 1; }
ok() { echo "ok: $*"; }
property() { box systemctl show -P "$1" "$2"; }
until_ok() { # the command succeeds
  local end
  end=$((SECONDS + $(python3 "$source/scripts/patience.py" 30)))
  until "$@" 2>/dev/null; do [ $SECONDS -lt $end ] || return 1; sleep 0.05; done
}

bin=/usr/local/lib/ramfold-box
mkdir -p "$dir/copy$bin/ramfold" "$dir/copy/etc/systemd/system"
install -m 755 "$keeper" "$dir/copy$bin/ramfold/ramfold-keeper"
install -m 755 "$probe" "$dir/copy$bin/probe"
printf '#!/bin/sh\ntouch /run/ramfold/off\n' >"$dir/copy$bin/ramfold-off"
chmod 755 "$dir/copy$bin/ramfold-off"
for unit in ramfold-keeper.service ramfold.service; do
  sed "s,@bindir@/ramfold off,$bin/ramfold-off,; s,@sbindir@/ramfoldd,$bin/probe daemon,
       s,@libexecdir@,$bin," "$source/systemd/$unit.in" >"$dir/copy/etc/systemd/system/$unit"
done
"$here/box.sh" start "$dir"

box systemctl start ramfold.service
[ "$(property ActiveState ramfold-keeper)" = active ] || die "the daemon did not bring the keeper"
daemon=$(property MainPID ramfold)
ok "both units started, as hardened as they are"

before=
came_back() {
  [ "$(property MainPID ramfold-keeper)" != "$before" ] &&
    [ "$(property SubState ramfold-keeper)" = running ]
}
kill_keeper() {
  before=$(property MainPID ramfold-keeper)
  box kill -KILL "$before"
  until_ok came_back || die "the keeper did not come back"
}

for round in 1 2 3 4 5; do
  before=$(property MainPID ramfold-keeper)
  box "$bin/probe" blow 40
  until_ok came_back || die "the keeper did not come back"
  box "$bin/probe" check 40 || die "round $round: an acknowledged descriptor is lost"
  box "$bin/probe" drop
done
ok "killed at the moment of an acknowledgement, five times: nothing acknowledged is lost"

box sleep 1000 2>/dev/null &
sleeper=$!
until_ok box pgrep -x sleep >/dev/null || die "no process to watch"
watched=$(box pgrep -x sleep)
count=500
box "$bin/probe" fill $count "$watched"
for between in true "systemctl daemon-reload" "systemctl daemon-reexec"; do
  box $between
  kill_keeper
  box "$bin/probe" check $count || die "after $between: not everything came back"
done
before=$(property MainPID ramfold-keeper)
box systemctl reload ramfold-keeper || die "systemctl reload is refused"
until_ok came_back || die "the keeper did not come back from a reload"
box "$bin/probe" check $count || die "after a reload: not everything came back"
ok "systemctl reload is its upgrade"
ok "killed, also after systemd's reload and re-execution: $count files, contents and all"
# An upgrade to a program that does not start, until somebody mends it.
box cp $bin/ramfold/ramfold-keeper $bin/good
box ln -sf /bin/false $bin/ramfold/ramfold-keeper
before=$(property MainPID ramfold-keeper)
tries() { property NRestarts ramfold-keeper; }
tries_before=$(tries)
tried_in_vain() { [ "$(tries)" -ge $((tries_before + 2)) ]; } # the first of them has failed
box kill -KILL "$before"
until_ok tried_in_vain || die "systemd does not start the keeper again"
box mv $bin/good $bin/ramfold/ramfold-keeper
until_ok came_back || die "the mended keeper did not start"
box "$bin/probe" check $count || die "lost while the keeper could not start"
ok "a keeper that cannot start for a while loses nothing"
[ "$(property MainPID ramfold)" = "$daemon" ] || die "the daemon was restarted with the keeper"
ok "the daemon was left alone"

box "$bin/probe" list | grep -q '^kept w.ram$' || die "the watched prefix is gone too early"
if box test -e /dev/userfaultfd; then
  box "$bin/probe" list | grep -q '^kept u.uffd$' || die "systemd dropped the userfaultfd"
fi
box kill -KILL "$watched"
wait $sleeper 2>/dev/null || true
watch_gone() { ! box "$bin/probe" list | grep -q ' w\.'; }
until_ok watch_gone || die "the watched process died and its files are still held"
stored() { [ "$(property NFileDescriptorStore ramfold-keeper)" = "$1" ]; }
stored_rest() { stored $((count + 1)) || stored $count; } # with the userfaultfd, and without
until_ok stored_rest || die "the store still has them"
ok "a watch made before the kills works after them"

for verb in stop restart; do
  for unit in ramfold-keeper ramfold; do
    if box systemctl $verb $unit 2>/dev/null; then die "systemctl $verb $unit was not refused"; fi
  done
done
box systemctl kill ramfold-keeper
sleep 0.3
box "$bin/probe" check $count || die "lost by systemctl stop, restart or kill"
ok "stop and restart are refused, and SIGTERM while anything is held"

box systemctl kill ramfold
daemon_back() { [ "$(property SubState ramfold)" = running ] &&
  [ "$(property MainPID ramfold)" != "$daemon" ]; }
until_ok daemon_back || die "the daemon did not come back after SIGTERM"
! box test -e /run/ramfold/off || die "a restart of the daemon ran ExecStop"
box "$bin/probe" check $count || die "lost with the daemon"
ok "SIGTERM to the daemon is its upgrade: started again, nothing unfolded"

box "$bin/probe" drop # the SIGTERM of before is still wanted: it ends, and is started again
keeper_empty() { [ "$(property SubState ramfold-keeper)" = running ] && box "$bin/probe" list; }
until_ok keeper_empty || die "the keeper is not back after a late end"
until_ok stored 0 || die "the store was not emptied"

# The bounds are systemd's and the kernel's: a keeper as full as it gets can be started again. Full
# of bytes of names; and of descriptors, when asked to (a minute: systemd compares each with all).
full() { # count, bytes of a name
  local started
  box env PROBE_NAME_SIZE="$2" "$bin/probe" fill "$1" 1
  started=$(date +%s%N)
  kill_keeper
  box env PROBE_NAME_SIZE="$2" "$bin/probe" check "$1" || die "it did not come back whole"
  ok "a full keeper ($1 names of $2) was back in $((($(date +%s%N) - started) / 1000000)) ms"
  box "$bin/probe" drop
}
full 1790 64
[ "${RAMFOLD_LONG-0}" != 1 ] || full 8189 11

# As at shutdown: a unit that conflicts with the daemon.
box systemd-run --quiet --property=Conflicts=ramfold.service /bin/true
daemon_gone() { [ "$(property ActiveState ramfold)" = inactive ]; }
until_ok daemon_gone || die "the daemon does not stop for systemd"
box test -e /run/ramfold/off || die "it was stopped without ramfold off"
[ "$(property ActiveState ramfold-keeper)" = active ] || die "the keeper went first"
ok "when systemd itself must stop the daemon, ramfold off comes first"

box systemctl start ramfold
box systemctl kill ramfold
box systemctl kill ramfold-keeper
both_gone() { [ "$(property ActiveState ramfold)" = inactive ] &&
  [ "$(property ActiveState ramfold-keeper)" = inactive ]; }
until_ok both_gone || die "after ramfold off the units do not end"
sleep 0.5
both_gone || die "they came back"
ok "after ramfold off, both can be ended for good"
