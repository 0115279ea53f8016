#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# deps.sh [--missing] GROUP... : installs what is missing of build, test, image, guest, demo, lint,
# with apt-get; with --missing it only prints what is. The one list of Debian packages that ramfold
# needs.
set -euo pipefail

build=(g++ meson ninja-build pkg-config ccache git
  bpftool clang-19 libbpf-dev  # the program that asks who holds a page
  libboost-dev libcli11-dev libfmt-dev liblz4-dev libmagic-dev libncurses-dev libsmartcols-dev
  libspdlog-dev libsystemd-dev libtomlplusplus-dev libxxhash-dev libzstd-dev linux-libc-dev
  nlohmann-json3-dev scdoc)
# scripts/guests.sh: images from Debian's packages alone; what runs them.
image=(debootstrap debian-archive-keyring cpio e2fsprogs gcc kmod libc6-dev xz-utils zstd)
guest=(python3 qemu-system-x86 util-linux)
demo=("${image[@]}" "${guest[@]}")
# Real QEMU, real systemd, real FUSE; spin for the model; clang for the fuzzers and the locks.
test=("${image[@]}" "${guest[@]}" busybox-static catch2 clang-19 libclang-rt-19-dev fuse3 iproute2
  libfuse3-dev librapidcheck-dev libvirt-clients libvirt-daemon-driver-qemu libvirt-daemon-system
  procps qemu-utils spin systemd
  fio xdelta3)  # for bench/run: I/O into RAM, and what is measured beside ours
lint=(clang-19 clang-tidy-19 clang-format-19 python3)

only_missing=0
if [ "${1:-}" = --missing ]; then
  only_missing=1
  shift
fi
wanted=()
for group in "$@"; do
  case $group in
    build) wanted+=("${build[@]}") ;;
    test) wanted+=("${test[@]}") ;;
    image) wanted+=("${image[@]}") ;;
    guest) wanted+=("${guest[@]}") ;;
    demo) wanted+=("${demo[@]}") ;;
    lint) wanted+=("${lint[@]}") ;;
    *)
      echo "deps.sh: no group '$group': build, test, image, guest, demo or lint" >&2
      exit 2
      ;;
  esac
done

missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
    missing+=("$package")
done
[ ${#missing[@]} -ne 0 ] || exit 0
if [ $only_missing = 1 ]; then
  echo "${missing[*]}"
  exit 0
fi

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
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
    --no-install-recommends install "${missing[@]}"; } \
  >"$log" 2>&1 </dev/null; then
  tail -n 30 "$log" >&2
  echo "deps.sh: apt-get failed, see above" >&2
  exit 1
fi
