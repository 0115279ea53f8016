#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The units are what systemd understands, have no ordering cycle with what runs guests, are as
# hardened as we say, and fit the keeper's own bounds. units_verify.sh SOURCE_ROOT
set -eu
source=$1
command -v systemd-analyze >/dev/null || { echo "skipped: no systemd-analyze"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
complain() { echo "$1:"; sed 's/^/  /' <<<"$2"; failed=1; }

mkdir -p "$dir/bin/ramfold"
for program in ramfold/ramfold-keeper ramfoldd ramfold; do
  [ "$program" = ramfold ] && program=cli
  install -m 755 /bin/true "$dir/bin/$program"
done
for unit in ramfold-keeper.service ramfold.service; do
  sed "s,@bindir@/ramfold,$dir/bin/cli,; s,@sbindir@,$dir/bin,; s,@libexecdir@,$dir/bin," \
    "$source/systemd/$unit.in" >"$dir/$unit"
  grep -q '^Documentation=man:' "$dir/$unit" || complain "$unit" "names no man page"
done
complaints=$(systemd-analyze verify --man=no "$dir"/*.service 2>&1 | grep -F ramfold || true)
[ -z "$complaints" ] || complain "systemd-analyze verify" "$complaints"

# A boot of this machine with ours, and whatever of libvirt it has, enabled. A cycle is told, and
# broken by leaving out any of its jobs: slices.target, as it were.
boot=$dir/boot
mkdir -p "$boot/multi-user.target.wants"
cp "$dir"/*.service "$boot"
for unit in ramfold-keeper.service ramfold.service; do
  ln -s "../$unit" "$boot/multi-user.target.wants/$unit"
done
for unit in libvirtd.service virtqemud.service libvirt-guests.service; do
  for where in /usr/lib/systemd/system /lib/systemd/system; do
    [ -e "$where/$unit" ] && ln -sf "$where/$unit" "$boot/multi-user.target.wants/$unit"
  done
done
# The slice of guests as systemd has it, also where its package is not installed.
[ -e /usr/lib/systemd/system/machine.slice ] || [ -e /lib/systemd/system/machine.slice ] ||
  printf '[Unit]\nBefore=slices.target\n' >"$boot/machine.slice"
verify_boot() {
  SYSTEMD_UNIT_PATH="$boot:" systemd-analyze verify --man=no multi-user.target 2>&1 |
    grep -E 'ramfold|cycle|machine\.slice' || true
}
complaints=$(verify_boot)
[ -z "$complaints" ] || complain "systemd-analyze verify multi-user.target" "$complaints"
# That this test would see one.
sed -i '/^DefaultDependencies=/d' "$boot/ramfold.service"
verify_boot | grep -q 'ordering cycle' || complain "the test" "does not see a cycle that is there"

# Exposure 0 (best) to 10, times ten. The keeper needs nothing; the daemon reads other processes.
for limit in ramfold-keeper.service:20 ramfold.service:35; do
  unit=${limit%:*}
  systemd-analyze security --offline=yes --threshold="${limit#*:}" "$dir/$unit" \
    >"$dir/security" 2>&1 ||
    { grep -F exposure "$dir/security" || cat "$dir/security"; failed=1; }
done

value() { sed -n "s/^$1=\([0-9]*\)$/\1/p" "$dir/ramfold-keeper.service"; }
held=$(sed -n "s/.*kHeldMax = \([0-9]*\);/\1/p" "$source/src/keeper/protocol.hpp")
above() { # option, what it must be above
  [ "$(value "$1")" -gt "$2" ] || { echo "$1 is not above $2"; failed=1; }
}
above FileDescriptorStoreMax "$held"
above LimitNOFILE $((2 * held + 128))
exit $failed
