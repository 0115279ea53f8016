#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# seeded_test.sh PROGRAM LIBRARIES SANITIZER...: run.sh must fail for each seeded error, in a child
# of a test as in a library that is preloaded, and must pass when there is none.
set -u
run=$(dirname "$0")/run.sh
program=$1 libraries=$2
shift 2

expect() { # status, pattern, command...
  local wanted=$1 pattern=$2 said status
  shift 2
  said=$("$run" "$@" 2>&1)
  status=$?
  if [ "$status" -ne "$wanted" ] || ! grep -q "$pattern" <<<"$said."; then
    printf '%s\nended with %s, not %s and "%s"\n' "$said" "$status" "$wanted" "$pattern"
    exit 1
  fi
}

declare -A pattern=([address]=heap-buffer-overflow [freed]=heap-use-after-free
  [undefined]='signed integer overflow' [thread]='data race')
case " $* " in *' address '*) set -- "$@" freed ;; esac
expect 0 '' "$program"
expect 0 '' env LD_PRELOAD="$libraries" true
expect 77 '' sh -c 'exit 77'
for error in "$@"; do
  expect 99 "${pattern[$error]}" "$program" "$error"
  expect 99 "${pattern[$error]}" env LD_PRELOAD="$libraries" SEEDED_ERROR="$error" true
done
