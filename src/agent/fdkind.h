/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an open descriptor means for guest RAM: may a read through it still write to a page's frame
 * after the page was guarded (D1, D2), or may it start another consumer of RAM (D13)? An
 * allow-list: a descriptor is a hazard unless it is known to copy through the page cache or a
 * kernel buffer.
 *
 * Pure and free of libc's types, so that the daemon can ask the same question of /proc/PID/fd. The
 * answer is a mask of RF_HAZARD_*, 0 for harmless. Includes wire.h only.
 */
#ifndef RAMFOLD_AGENT_FDKIND_H
#define RAMFOLD_AGENT_FDKIND_H

#include "agent/wire.h"

struct rf_fd_facts {
  uint32_t mode;         /* st_mode */
  uint32_t device_major; /* of st_rdev, for device nodes */
  uint32_t device_minor;
  uint64_t filesystem; /* f_type of fstatfs, for regular files */
  int direct;          /* O_DIRECT is set */
  int path_only;       /* O_PATH */
  int write_only;      /* O_WRONLY: puts no bytes into RAM */
  const char *link;    /* of /proc/PID/fd/N, for device nodes and anonymous inodes; or null */
  const char *name;    /* of a device, the last part of /sys/dev/char/MAJOR:MINOR; or null */
};

static inline int rf_text_begins(const char *text, const char *with) {
  if (text == NULL) return 0;
  while (*with != 0 && *text == *with) ++text, ++with;
  return *with == 0;
}

/* File systems whose buffered reads copy out of the page cache. */
static inline int rf_filesystem_copies(uint64_t type) {
  switch (type) {
    case 0xEF53:     /* ext2, ext3, ext4 */
    case 0x58465342: /* xfs */
    case 0x9123683E: /* btrfs */
    case 0x01021994: /* tmpfs and memfd */
    case 0x858458F6: /* ramfs */
    case 0x958458F6: /* hugetlbfs: read(2) copies */
    case 0x9FA0:     /* proc */
    case 0x62656572: /* sysfs */
    case 0x27E0EB:   /* cgroup */
    case 0x63677270: /* cgroup2 */
    case 0x64626720: /* debugfs */
    case 0x74726163: /* tracefs */
    case 0x73636673: /* securityfs */
    case 0xF97CFF8C: /* selinuxfs */
    case 0xDE5E81E4: /* efivarfs */
    case 0x1CD1:     /* devpts */
    case 0x50495045: /* pipefs */
    case 0x534F434B: /* sockfs */
    case 0x6E736673: /* nsfs */
    case 0x50494446: /* pidfs */
    case 0xCAFE4A11: /* bpf */ return 1;
    default: return 0;
  }
}

/* Devices with dynamic numbers, by name: random numbers, clocks, macvtap, sockets of VMs. */
static inline int rf_named_device_copies(const char *name) {
  static const char *const copies[] = {"hwrng", "rtc", "tap", "vsock", "tpm", "userfaultfd"};
  for (size_t i = 0; i < sizeof copies / sizeof copies[0]; ++i) {
    if (!rf_text_begins(name, copies[i])) continue;
    const char *rest = name;
    for (const char *c = copies[i]; *c != 0; ++c) ++rest;
    if (rf_text_begins(rest, "rm")) rest += 2; /* tpmrm0 */
    while (*rest >= '0' && *rest <= '9') ++rest;
    if (*rest == 0) return 1;
  }
  return 0;
}

/* Character devices that only copy. One that is not listed, by number or by name, is a hazard. */
static inline uint32_t rf_char_device(uint32_t major_number, uint32_t minor_number) {
  switch (major_number) {
    case 1: /* null, zero, full, random, urandom, kmsg; not mem and port */
      return minor_number == 3 || minor_number == 5 || (minor_number >= 7 && minor_number <= 9) ||
                     minor_number == 11
                 ? 0
                 : 0u | RF_HAZARD_DEVICE;
    case 4:   /* consoles and serial lines */
    case 5:   /* tty, console, ptmx */
    case 13:  /* input */
    case 14:  /* OSS */
    case 116: /* ALSA */
    case 188: /* USB serial lines */
    case 189: /* usbfs: the kernel has buffers of its own */ return 0;
    case 10:
      switch (minor_number) {
        case 183: /* hwrng */
        case 200: /* tun, tap */
        case 223: /* uinput */
        case 224: /* tpm */
        case 228: /* hpet */
        case 232: /* kvm */
        case 236: /* device mapper's control */
        case 237: /* loop's control */
        case 238: /* vhost-net: copies, and faults as other threads do */
        case 241: /* vhost-vsock */ return 0;
        default: return RF_HAZARD_DEVICE;
      }
    case 21: return RF_HAZARD_SG_IO;
    default:
      return major_number >= 136 && major_number <= 143 ? 0u /* pseudo terminals */
                                                        : 0u | RF_HAZARD_DEVICE;
  }
}

/* Kernel objects without a name: these only count, wait, or run the guest itself. */
static inline int rf_object_harmless(const char *link) {
  static const char *const known[] = {
      "eventfd", "eventpoll", "timerfd",    "signalfd", "inotify",    "fanotify",
      "pidfd",   "bpf",       "kvm-v",      "kvm-s",    "kvm-xive",   "landlock",
      "seccomp", "sync_file", "perf_event", "io_uring", "userfaultfd"};
  if (!rf_text_begins(link, "anon_inode:")) return 0;
  const char *object = link + sizeof "anon_inode:" - 1;
  if (*object == '[') ++object;
  if (rf_text_begins(object, "kvm-vfio")) return 0;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i)
    if (rf_text_begins(object, known[i])) return 1;
  return 0;
}

static inline uint32_t rf_fd_hazard(const struct rf_fd_facts *facts) {
  if (facts->path_only) return 0;
  const uint32_t direct = facts->direct ? 0u | RF_HAZARD_DIRECT_IO : 0u;
  switch (facts->mode & 0170000u) {
    case 0100000u: /* regular */
      /* a dma-buf, which devices share, looks like a regular file */
      if (rf_text_begins(facts->link, "/dmabuf:")) return RF_HAZARD_DEVICE;
      if (facts->write_only) return 0;
      return direct | (rf_filesystem_copies(facts->filesystem) ? 0u : 0u | RF_HAZARD_FILESYSTEM);
    case 0060000u: /* block device */ return direct;
    case 0020000u: /* character device; a further userfaultfd is handled when it is made */
      return rf_named_device_copies(facts->name)
                 ? 0u
                 : rf_char_device(facts->device_major, facts->device_minor);
    case 0u: return rf_object_harmless(facts->link) ? 0u : 0u | RF_HAZARD_DEVICE;
    default: /* directories, pipes (there O_DIRECT means packets), sockets */ return 0;
  }
}

#endif
