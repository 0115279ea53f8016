#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# deps.sh GROUP... : installs what is missing of build, test, demo, lint, with apt-get. The one list of
# Debian packages that ramfold needs.
set -euo pipefail

build=(g++ meson ninja-build pkg-config ccache git
  libboost-dev libcli11-dev libfmt-dev liblz4-dev libspdlog-dev libsystemd-dev libtomlplusplus-dev
  libxxhash-dev linux-libc-dev nlohmann-json3-dev scdoc)
# Real QEMU, real systemd, real FUSE; spin for the model; clang for the fuzzers.
test=(catch2 clang-19 libclang-rt-19-dev libfuse3-dev fuse3 librapidcheck-dev python3 qemu-system-x86 spin
  systemd busybox-static cpio e2fsprogs kmod xz-utils procps util-linux iproute2
  libzstd-dev xdelta3)  # what bench/run measures beside ours
demo=(debootstrap python3 qemu-system-x86 busybox-static cpio e2fsprogs kmod xz-utils)
lint=(clang-19 clang-tidy-19 clang-format-19 python3)

wanted=()
for group in "$@"; do
  case $group in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    demo) wanted+=("${demo[@]}") ;;
    lint) wanted+=("${lint[@]}") ;;
    *)
      echo "deps.sh: no group '$group': build, test, demo or lint" >&2
      exit 2
      ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -ne 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || {
    echo "deps.sh: these packages are missing and need root (or sudo) to install: ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
echo "installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { "${as_root[@]}" apt-get -q update &&
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"; } \
  >"$log" 2>&1 </dev/null; then
  tail -n 30 "$log" >&2
  echo "deps.sh: apt-get failed, see above" >&2
  exit 1
fi
