#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# lint.sh [--all] [--fix] [--format-only] [FILE...]: clang-format and clang-tidy 19 over the C and
# C++ files that differ from the main branch, over all of them, or over those named. --fix formats
# in place. Exit 1 when anything is found.
set -euo pipefail
cd "$(dirname "$0")/.."

all=0 fix=0 tidy=1
files=()
while [ $# -ne 0 ]; do
  case $1 in
    --all) all=1 ;;
    --fix) fix=1 ;;
    --format-only) tidy=0 ;;
    -h | --help) sed -n '3,5s/^# //p' "$0"; exit 0 ;;
    -*) echo "lint.sh: no option '$1'" >&2; exit 2 ;;
    *) files+=("$1") ;;
  esac
  shift
done

scripts/deps.sh lint

ours() { grep -E '\.(c|h|cpp|hpp)$' | grep -v '^tests/tidy/fixtures/' || true; }
if [ ${#files[@]} -eq 0 ]; then
  if [ "$all" = 1 ]; then
    mapfile -t files < <(git ls-files src tests | ours)
  else
    base=$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)
    [ "$base" != "$(git rev-parse HEAD)" ] || base=$(git rev-parse -q --verify HEAD~1 || echo HEAD)
    mapfile -t files < <(git diff --name-only --diff-filter=d "$base" -- src tests | ours)
  fi
fi
if [ ${#files[@]} -eq 0 ]; then
  echo 'lint: no C or C++ file to look at'
  exit 0
fi

found=0
if [ "$fix" = 1 ]; then
  clang-format-19 -i "${files[@]}"
else
  unformatted=()
  for file in "${files[@]}"; do
    clang-format-19 "$file" | cmp -s "$file" - || unformatted+=("$file")
  done
  if [ ${#unformatted[@]} -ne 0 ]; then
    printf 'not formatted (scripts/lint.sh --fix): %s\n' "${unformatted[@]}"
    found=1
  fi
fi

if [ "$tidy" = 1 ]; then
  [ -e build/compile_commands.json ] || meson setup build -Dchecks=true >/dev/null
  # Only what the build compiles: headers come with their includers.
  compiled=()
  for file in "${files[@]}"; do
    if grep -qF "\"../$file\"" build/compile_commands.json; then compiled+=("$file"); fi
  done
  if [ ${#compiled[@]} -ne 0 ]; then
    printf '%s\0' "${compiled[@]}" |
      xargs -0 -P "$(nproc)" -n 1 clang-tidy-19 -p build --quiet 2>/dev/null || found=1
  fi
fi
exit "$found"
