#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Guest images from Debian's packages alone, kept in a cache outside of the repository.
#
#   guests.sh build KIND...   builds what is missing; prints each image's directory, one a line
#   guests.sh path KIND...    only prints the directories
#   guests.sh kernel SUITE... builds what is missing of kernel, modules and busybox of these suites
#                             for amd64, and prints each one's directory
#   guests.sh deps            installs what building and running guests needs
#
#   web    bookworm with systemd and nginx, which serves pages that were generated into its disk
#   kv     trixie with a minimal init and redis
#   mini   a kernel and an initramfs with busybox: boots in seconds, nothing to debootstrap
#   disks  the same with drivers of all disks that QEMU has, and disk_reader
#   db     bullseye for i386 with a minimal init and postgres
#   script bullseye with a minimal init and a web application in python
#
# Every kind says GUEST-READY on the first serial port once its service answers, and has a root
# shell, without prompt and echo, on the second (its output is a pipe, so that no shell takes itself
# for interactive). web, kv and mini run ramcheck (tests/vm/guest), which checks the guest's memory;
# db and script have a command guest-load, which gives their service work and returns when it is
# done. disks has disk_reader, of tests/vm/guest too. guest_kinds.sh has the recipes.
#
# An image is a directory: vmlinuz, initrd.gz, disk.ext4 (not for mini) and image.json. Its name
# carries a hash of the recipe, so a changed one gives a new image; kernels and bare root trees are
# cached one by one, by the functions that make them. All are built under a temporary name and
# renamed when done, and a lock for each lets several of these scripts run at once.
#
# RAMFOLD_CACHE    where images are kept (default: ~/.cache/ramfold)
# RAMFOLD_MIRROR   where packages come from (default: the mirror that apt is configured with)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$here/../tests/vm/guest
cache=${RAMFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ramfold}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
unset -v TMPDIR

# shellcheck source=scripts/guest_kinds.sh
source "$here/guest_kinds.sh"

say() { echo "guests: $*" >&2; }

# ---- steps that take long -----------------------------------------------------------------------

# step LOG WHAT COMMAND...: runs a command with its output in a log, shows that it is alive, and
# shows the log's end if it fails.
step() {
  local log=$1 what=$2 began=$SECONDS pid waited=0
  shift 2
  say "$what"
  "$@" >>"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    waited=$((waited + 1))
    ((waited % 20 != 0)) ||
      say "  ${what%% (*}: $((SECONDS - began)) s, $(tail -n 1 "$log" | cut -c1-60)"
  done
  wait "$pid" || {
    say "$what: failed; the end of $log:"
    tail -n 15 "$log" | sed 's/^/    /' >&2
    return 1
  }
}

# once PATH FUNCTION ARGUMENT...: makes PATH with "FUNCTION NEW ARGUMENT...", where NEW is an empty
# directory beside it, unless PATH exists. Whoever comes second waits for the first.
once() {
  local path=$1 make=$2
  shift 2
  if [ -e "$path" ]; then touch "$path"; return; fi  # in use, see prune()
  mkdir -p "$(dirname "$path")"
  (
    exec 9>"$path.lock"
    flock -n 9 || { say "$(basename "$path"): somebody else is building it, waiting"; flock 9; }
    [ -e "$path" ] && exit
    rm -rf "$path.new"  # from a run that was killed
    mkdir "$path.new"
    "$make" "$path.new" "$@"
    rm -f "$path.new.log"
    mv "$path.new" "$path"
  )
}

hash_of() { cat | sha256sum | cut -c1-12; }

# ---- the host -----------------------------------------------------------------------------------

# need GROUP...: packages of scripts/deps.sh.
need() {
  local missing
  missing=$("$here/deps.sh" --missing "$@")
  [ -n "$missing" ] || return 0
  mkdir -p "$cache"
  (
    exec 9>"$cache/apt-install.lock"
    flock 9
    step "$cache/apt-install.log" "installing $missing" "$here/deps.sh" "$@"
  )
}

# The archive that apt installs the host's own packages from.
mirror() {
  if [ -n "${RAMFOLD_MIRROR:-}" ]; then echo "$RAMFOLD_MIRROR"; return; fi
  local found
  found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)' \
    'Created-By: Packages' |
    awk '$3 == "main" && $2 !~ /-|\// { print ($4 == "Debian" ? 0 : 1), $1 }' |
    sort -s -k1,1n | awk 'NR == 1 { print $2 }')
  [ -n "$found" ] || { say "apt knows no Debian mirror; set RAMFOLD_MIRROR"; return 1; }
  echo "$found"
}

# ---- kernel, busybox and modules of a suite -----------------------------------------------------

modules_needed=(virtio_pci virtio_blk ext4 virtio_balloon)
disk_modules=(virtio_scsi sd_mod ata_piix nvme)

# The kernel's package: the small one made for VMs, where there is one.
kernel_package() {
  case $1 in amd64) echo linux-image-cloud-amd64 ;; i386) echo linux-image-686-pae ;; esac
}

# apt with everything of its own below a directory, for a suite and an architecture that need not be
# the host's.
apt_at() {
  local at=$1 arch=$2 tool=$3
  shift 3
  "$tool" -q -o Dir::Etc::SourceList="$at/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State="$at/state" -o Dir::State::Status="$at/status" -o Dir::Cache="$at/cache" \
    -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any -o Acquire::Retries=3 \
    -o Acquire::Languages=none -o APT::Architecture="$arch" \
    -o APT::Architectures="$arch" "$@"
}

download_kernel() {
  local at=$1 suite=$2 arch=$3 image
  mkdir -p "$at"/{state/lists/partial,cache/archives/partial,debs,tree}
  : >"$at/status"
  echo "deb [signed-by=$keyring] $(mirror) $suite main" >"$at/sources.list"
  apt_at "$at" "$arch" apt-get update
  image=$(apt_at "$at" "$arch" apt-cache depends "$(kernel_package "$arch")" |
    sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  (cd "$at/debs" && apt_at "$at" "$arch" apt-get download "$image" busybox-static)
  for deb in "$at"/debs/*.deb; do dpkg-deb -x "$deb" "$at/tree"; done
  # Where /usr is merged in the suite, modprobe still looks in /lib.
  if [ -d "$at/tree/usr/lib/modules" ]; then
    mkdir -p "$at/tree/lib"
    ln -sfn ../usr/lib/modules "$at/tree/lib/modules"
  fi
  depmod -b "$at/tree" "$(basename "$at"/tree/lib/modules/*)"
}

make_kernel() {
  local new=$1 suite=$2 arch=$3 version file name
  step "$new.log" "$suite, $arch: kernel and busybox" download_kernel "$new/work" "$suite" "$arch"
  local tree=$new/work/tree
  version=$(basename "$tree"/lib/modules/*)
  mkdir "$new/modules"
  for name in "${modules_needed[@]}"; do
    modprobe -d "$tree" -S "$version" --show-depends "$name"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$new/work/files"
  while read -r file; do
    name=$(basename "$file")
    case $name in
      *.xz) name=${name%.xz}; xz -dc "$file" ;;
      *.zst) name=${name%.zst}; zstd -qdc "$file" ;;
      *) cat "$file" ;;
    esac >"$new/work/module"
    mv "$new/work/module" "$new/modules/$name"
    echo "$name" >>"$new/modules/order"
  done <"$new/work/files"
  cp "$tree"/boot/vmlinuz-* "$new/vmlinuz"
  cp "$(find "$tree" -path '*/bin/busybox' -type f | head -n 1)" "$new/busybox"
  rm -rf "$new/work"
}

kernel_dir() {
  local suite=$1 arch=$2
  echo "$cache/kernels/$suite-$arch-$({
    echo "$(mirror) ${modules_needed[*]}"
    declare -f apt_at kernel_package download_kernel make_kernel
  } | hash_of)"
}

# ---- initramfs ----------------------------------------------------------------------------------

# make_initrd OUT KERNEL SCRIPT [FILE...]: SCRIPT is a function that prints /init's last part; the
# files go to /bin.
make_initrd() {
  local out=$1 kernel=$2 script=$3 tree=$1.tree
  shift 3
  mkdir -p "$tree"/{bin,dev,proc,sys,tmp,root}
  cp "$kernel/busybox" "$@" "$tree/bin/"
  cp -r "$kernel/modules" "$tree/modules"
  { initrd_head; "$script"; } >"$tree/init"
  chmod 755 "$tree" "$tree/init"
  (cd "$tree" && find . | sort | cpio --quiet -o -H newc -R 0:0) | gzip -6 >"$out"
  rm -rf "$tree"
}

initrd_head() {
  cat <<'I'
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
I
}

initrd_to_disk() {
  cat <<'I'
tries=0
until [ -b /dev/vda ] || [ $tries = 100 ]; do sleep 0.1; tries=$((tries + 1)); done
mkdir /disk
mount -t ext4 -o rw,noatime /dev/vda /disk || { echo "GUEST-FAILED no disk"; exec sh; }
for word in $(cat /proc/cmdline); do case $word in init=*) init=${word#init=} ;; esac; done
for at in dev proc sys; do mount -o move /$at /disk/$at; done
exec switch_root /disk "${init:-/sbin/init}"
I
}

initrd_shell() {
  cat <<'I'
echo "GUEST-READY up=$(cut -d' ' -f1 /proc/uptime)"
stty -F /dev/ttyS1 -echo -onlcr
while :; do setsid sh -c 'sh 2>&1 | cat' </dev/ttyS1 >/dev/ttyS1 2>&1; sleep 0.2; done
I
}

initrd_mini() {
  cat <<'I'
ip link set lo up
ramcheck run --files 2 /bin --files 2 /modules --records 12 &
until ramcheck ask state >/dev/null 2>&1; do sleep 0.1; done
I
  initrd_shell
}

initrd_disks() { initrd_shell; }

# ---- root trees and disks -----------------------------------------------------------------------

make_root() {
  local new=$1 suite=$2 arch=$3 packages=$4
  [ "$(id -u)" = 0 ] || { say "building this image needs root"; return 1; }
  step "$new.log" "$suite, $arch: debootstrap (${packages//,/ })" \
    debootstrap --variant=minbase --arch="$arch" --include="$packages" --keyring="$keyring" \
    "$suite" "$new/root" "$(mirror)"
  rm -rf "$new"/root/var/{lib/apt/lists,cache/apt}/*
}
root_dir() {
  local suite=$1 arch=$2 packages=$3
  echo "$cache/roots/$suite-$arch-$({
    echo "$(mirror) $packages"
    declare -f make_root
  } | hash_of)"
}

# The disk is made from the directory, nothing is mounted. Older kernels mount it too.
make_disk() {
  local tree=$1 out=$2
  mke2fs -qF -t ext4 -O ^orphan_file,^metadata_csum_seed -m 0 \
    -E lazy_itable_init=0,lazy_journal_init=0 -d "$tree" "$out" 1G
}

compile_ramcheck() { gcc -static -O2 -Wall -pthread -o "$1" "$source_dir/ramcheck.c"; }
compile_disk_reader() { gcc -static -O2 -Wall -o "$1" "$source_dir/disk_reader.c"; }

# ---- images -------------------------------------------------------------------------------------

# make_image NEW KIND SUITE ARCH PACKAGES INIT
make_image() {
  local new=$1 kind=$2 suite=$3 arch=$4 packages=$5 init=$6 kernel root
  kernel=$(kernel_dir "$suite" "$arch")
  once "$kernel" make_kernel "$suite" "$arch"
  cp "$kernel/vmlinuz" "$new/vmlinuz"
  local program=ramcheck
  [ "$kind" != disks ] || program=disk_reader
  "compile_$program" "$new/$program"
  if [ -n "$packages" ]; then
    root=$(root_dir "$suite" "$arch" "$packages")
    once "$root" make_root "$suite" "$arch" "$packages"
    step "$new.log" "$kind: copying the root tree" cp -a "$root/root" "$new/root"
    cp "$new/ramcheck" "$new/root/usr/local/sbin/ramcheck"
    echo "$kind" >"$new/root/etc/hostname"
    "${kind}_files" "$new/root"
    make_initrd "$new/initrd.gz" "$kernel" initrd_to_disk
    step "$new.log" "$kind: making the disk" make_disk "$new/root" "$new/disk.ext4"
    rm -rf "$new/root"
  else
    make_initrd "$new/initrd.gz" "$kernel" "initrd_$kind" "$new/$program"
  fi
  local disk=false
  [ -z "$packages" ] || disk=true
  echo "{\"kind\": \"$kind\", \"init\": \"$init\", \"disk\": $disk}" >"$new/image.json"
}

# Removes what older recipes left. A day is longer than anybody takes to start a VM from an image.
prune() {
  local kind=$1 dir=$2
  find "$cache/images" -maxdepth 1 -name "$kind-*" ! -path "$dir*" -mmin +1440 -exec rm -rf {} +
  mkdir -p "$cache/roots"
  find "$cache"/{kernels,roots} -mindepth 1 -maxdepth 1 -mmin +20160 -exec rm -rf {} +
}

image_dir() { echo "$cache/images/$1-$recipe_hash"; }

build() {
  local kind=$1 dir began=$SECONDS
  dir=$(image_dir "$kind")
  if [ ! -e "$dir" ]; then
    need image
    case $kind in
      web) once "$dir" make_image web bookworm amd64 "$web_packages" /sbin/init ;;
      kv) once "$dir" make_image kv trixie amd64 "$kv_packages" /sbin/guest-init ;;
      mini) once "$dir" make_image mini bookworm amd64 '' /init ;;
      disks)
        modules_needed+=("${disk_modules[@]}")
        once "$dir" make_image disks bookworm amd64 '' /init
        ;;
      db) once "$dir" make_image db bullseye i386 "$db_packages" /sbin/guest-init ;;
      script)
        once "$dir" make_image script bullseye amd64 "$script_packages" /sbin/guest-init
        ;;
    esac
    prune "$kind" "$dir"
    say "$kind: done after $((SECONDS - began)) s"
  fi
}

kernel() {
  local suite=$1 dir
  dir=$(kernel_dir "$suite" amd64)
  [ -e "$dir" ] || need image
  once "$dir" make_kernel "$suite" amd64
  echo "$dir"
}

main() {
  local command=${1:-help} name kind pids=() failed=0
  [ $# -gt 0 ] && shift
  for name; do
    case $command:$name in
      kernel:bookworm | kernel:trixie) ;;
      kernel:*) say "no such suite: $name"; exit 2 ;;
      *:web | *:kv | *:mini | *:disks | *:db | *:script) ;;
      *) say "unknown kind: $name"; exit 2 ;;
    esac
  done
  recipe_hash=$(cat "${BASH_SOURCE[0]}" "$here/guest_kinds.sh" \
    "$source_dir"/{ramcheck.c,disk_reader.c,catalogue.py} | hash_of)
  case $command in
    build)
      mkdir -p "$cache"
      for kind; do build "$kind" & pids+=($!); done
      for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
      [ $failed = 0 ] || exit 1
      for kind; do image_dir "$kind"; done
      ;;
    path) for kind; do image_dir "$kind"; done ;;
    kernel) for name; do kernel "$name"; done ;;
    deps) need image guest ;;
    *) sed -n '3,/^set /s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
}
main "$@"
