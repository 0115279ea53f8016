#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# run.sh COMMAND...: runs a test of a sanitizer build; meson's test setup calls it. Every process
# that the test starts writes what a sanitizer finds into one directory, and anything in it is a
# failure: a daemon that is killed, an agent in a guest or a child whose status nobody looks at
# cannot swallow a report.
set -u
here=$(cd "$(dirname "$0")" && pwd)
reports=$(mktemp -d /tmp/ramfold-reports.XXXXXX)
chmod 1777 "$reports" # some tests have processes of another user
trap 'rm -rf "$reports"' EXIT

options() { # what is set already, ours; the later wins
  printf '%s' "${1:+$1:}$2${2:+:}log_path=$reports/report"
}
# Beside what is preloaded (src/agent/meson.build) the runtime is not the first library.
ASAN_OPTIONS=$(options "${ASAN_OPTIONS:-}" \
  detect_stack_use_after_return=1:strict_init_order=1:verify_asan_link_order=0)
UBSAN_OPTIONS=$(options "${UBSAN_OPTIONS:-}" print_stacktrace=1)
# The daemon forks, and waits for such children. Fake guests are built without, as QEMU is: only the
# agent in them is looked at.
thread="die_after_fork=0:atexit_sleep_ms=0:ignore_noninstrumented_modules=1"
TSAN_OPTIONS=$(options "${TSAN_OPTIONS:-}" "$thread:suppressions=$here/thread.supp")
export ASAN_OPTIONS UBSAN_OPTIONS TSAN_OPTIONS

# GCC 12's ThreadSanitizer may not find room where addresses are random in more than 28 bits.
fixed=()
if setarch --addr-no-randomize true 2>/dev/null; then fixed=(setarch --addr-no-randomize); fi

"${fixed[@]}" "$@"
status=$?
for report in "$reports"/*; do
  # LeakSanitizer says this of a thread that is killed as it is looked at, and goes on.
  grep -qvE '^(==[0-9]+==Unable to get registers from thread [0-9]+\.)?$' "$report" || continue
  echo "== a sanitizer's report: ${report##*/}"
  head -n 120 "$report"
  status=99
done
exit "$status"
