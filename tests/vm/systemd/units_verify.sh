#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The units are what systemd understands, as hardened as we say, and fit the keeper's own bounds.
# units_verify.sh SOURCE_ROOT
set -eu
source=$1
command -v systemd-analyze >/dev/null || { echo "skipped: no systemd-analyze"; exit 77; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

mkdir -p "$dir/bin/ramfold"
for program in ramfold/ramfold-keeper ramfoldd ramfold; do
  [ "$program" = ramfold ] && program=cli
  install -m 755 /bin/true "$dir/bin/$program"
done
for unit in ramfold-keeper.service ramfold.service; do
  sed "s,@bindir@/ramfold,$dir/bin/cli,; s,@sbindir@,$dir/bin,; s,@libexecdir@,$dir/bin," \
    "$source/systemd/$unit.in" >"$dir/$unit"
done
complaints=$(systemd-analyze verify --man=no "$dir"/*.service 2>&1 | grep -F ramfold || true)
[ -z "$complaints" ] || { echo "$complaints"; failed=1; }

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
