// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/descriptor_facts.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

namespace ramfold::guest {
namespace {

using std::string_view;

template <std::size_t N>
bool is_one_of(string_view name, const std::array<string_view, N>& list) noexcept {
  return std::ranges::find(list, name) != list.end();
}
template <std::size_t N>
bool begins_with_one_of(string_view name, const std::array<string_view, N>& list) noexcept {
  return std::ranges::any_of(list, [&](string_view prefix) { return name.starts_with(prefix); });
}

// Devices that copy to and from QEMU's memory, by the CPU, within the system call or in a kernel
// thread that faults as QEMU would (vhost-net, vhost-vsock). vhost-scsi takes the pages of each
// request through QEMU's page table, and waits where one is missing or guarded.
constexpr std::array<string_view, 21> kHarmlessDevices{
    "null",    "zero",  "full",   "random",    "urandom",     "hwrng",      "tty",
    "console", "ptmx",  "kvm",    "rtc",       "rtc0",        "hpet",       "net/tun",
    "tpm0",    "vsock", "tpmrm0", "vhost-net", "vhost-vsock", "vhost-scsi", "userfaultfd"};
// usbfs copies through buffers of its own; QEMU hands it none of the guest's. SCSI and NVMe
// pass-through (bsg/, ng, sgN, nvmeN) takes the pages of each command as vhost-scsi does.
constexpr std::array<string_view, 8> kHarmlessDevicePrefixes{"tty",  "pts/",     "tap",  "input/",
                                                             "snd/", "bus/usb/", "bsg/", "ng"};
// Those that take pages by the RAM file (udmabuf, iommu, dri/: a blob of virtio-gpu), those that
// fail where a page is missing or guarded instead of waiting (vfio/, vhost-vdpa), and those that
// keep no reference of what they use (kfd, infiniband/, nvidia, accel/).
constexpr std::array<string_view, 4> kConsumers{"udmabuf", "iommu", "kfd", "nvidiactl"};
constexpr std::array<string_view, 6> kConsumerPrefixes{"vfio/",       "vhost-vdpa", "dri/",
                                                       "infiniband/", "nvidia",     "accel/"};

bool is_numbered(string_view name, string_view prefix) noexcept {
  if (!name.starts_with(prefix) || name.size() == prefix.size()) return false;
  return std::ranges::all_of(name.substr(prefix.size()),
                             [](char c) { return c >= '0' && c <= '9'; });
}

constexpr std::array<string_view, 15> kHarmlessObjects{
    "eventfd",          "eventpoll",      "timerfd",   "signalfd",   "inotify",
    "fanotify",         "pidfd",          "bpf-map",   "bpf-prog",   "bpf_link",
    "landlock-ruleset", "seccomp notify", "sync_file", "perf_event", "io_uring"};
constexpr std::array<string_view, 11> kHarmlessSchemes{"socket:[", "pipe:[", "pidfd:[", "net:[",
                                                       "mnt:[",    "user:[", "pid:[",   "ipc:[",
                                                       "uts:[",    "time:[", "cgroup:["};

KernelObject judge_anonymous(string_view object) noexcept {
  if (object.starts_with('[') && object.ends_with(']')) {
    object = object.substr(1, object.size() - 2);
  }
  if (object == "userfaultfd") return KernelObject::userfaultfd;
  if (object == "kvm-gmem" || object == "guest_memfd") return KernelObject::confidential;
  if (object.starts_with("vfio") || object == "kvm-vfio") return KernelObject::other_consumer;
  if (object.starts_with("kvm-") || is_one_of(object, kHarmlessObjects)) {
    return KernelObject::harmless;
  }
  return KernelObject::unknown;
}

// The names that statfs's magic numbers have in mountinfo, for mounts that no mountinfo we can read
// has.
struct Magic {
  std::uint64_t number;
  string_view type;
};
constexpr std::array<Magic, 6> kMagics{{{0x01021994, "tmpfs"},
                                        {0xEF53, "ext4"},
                                        {0x58465342, "xfs"},
                                        {0x9123683E, "btrfs"},
                                        {0x958458f6, "hugetlbfs"},
                                        {0x9fa0, "proc"}}};

// The type of the file system that a mount id names. Asks the process's mounts, then ours (libvirt
// hands over descriptors opened outside QEMU's namespace), each read once and only when needed.
class FilesystemTypes {
 public:
  FilesystemTypes(const sys::Procfs& procfs, pid_t pid) noexcept : procfs_(procfs), pid_(pid) {}

  Result<std::string> of(int fd, int mount) {
    for (const sys::Mounts* mounts : {&theirs(), &ours()}) {
      if (const auto found = mounts->find(mount); found != mounts->end()) return found->second;
    }
    // The kernel's own mounts (memfd) have no line. A FUSE mount of another user, which might not
    // answer, does not get to see root's statfs (fuse(4), allow_other): its type is told at once.
    const auto magic = procfs_.fd_filesystem(pid_, fd);
    if (!magic) return std::unexpected(magic.error());
    for (const Magic& known : kMagics) {
      if (known.number == *magic) return std::string(known.type);
    }
    return std::string("unknown");
  }

 private:
  const sys::Mounts& theirs() {
    if (!theirs_) theirs_ = procfs_.mounts(pid_).value_or(sys::Mounts{});
    return *theirs_;
  }
  const sys::Mounts& ours() {
    if (!ours_) ours_ = procfs_.own_mounts().value_or(sys::Mounts{});
    return *ours_;
  }

  const sys::Procfs& procfs_;
  pid_t pid_;
  std::optional<sys::Mounts> theirs_;
  std::optional<sys::Mounts> ours_;
};

// KVM's descriptor of a vCPU.
bool is_vcpu(string_view link) noexcept { return link.starts_with("anon_inode:kvm-vcpu"); }

class DescriptorCheck {
 public:
  DescriptorCheck(const sys::Procfs& procfs, pid_t pid, ReasonList& reasons) noexcept
      : procfs_(procfs), pid_(pid), reasons_(reasons), types_(procfs, pid) {}

  DescriptorFacts run() {
    facts_.seen = procfs_.descriptors(pid_, [this](const sys::FdEntry& entry) {
      check(entry);
      return true;
    });
    return facts_;
  }

 private:
  void check(const sys::FdEntry& entry) {
    const auto describe = [&] {
      return "descriptor " + std::to_string(entry.number) + " (" + printable(entry.link) + ")";
    };
    switch (judge_link(entry.link)) {
      case KernelObject::none: check_file(entry); return;
      case KernelObject::harmless:
        if (is_vcpu(entry.link)) ++facts_.vcpus;
        return;
      case KernelObject::userfaultfd: ++facts_.userfaultfds; return;
      case KernelObject::other_consumer:
        reasons_.add(ReasonCode::other_consumer, describe() + " gives RAM to a device");
        return;
      case KernelObject::confidential:
        reasons_.add(ReasonCode::confidential_guest, describe() + " is memory of the guest's own");
        return;
      case KernelObject::unknown:
        reasons_.add(ReasonCode::unknown_descriptor,
                     describe() + " is not known: it may give RAM to a device");
        return;
    }
  }

  // A fact that could not be had; a descriptor closed meanwhile is no fact.
  void could_not_read(const sys::FdEntry& entry, const Error& error) {
    if (error.code == ESRCH || error.code == EBADF) return;
    reasons_.add(ReasonCode::unreadable, "descriptor " + std::to_string(entry.number) + " (" +
                                             printable(entry.link) + "): " + error.text());
  }

  void check_file(const sys::FdEntry& entry) {
    const auto info = procfs_.fd_info(pid_, entry.number);
    if (!info) return could_not_read(entry, info.error());
    if ((info->flags & O_PATH) != 0) return;
    const auto type = types_.of(entry.number, info->mount);
    if (!type) return could_not_read(entry, type.error());
    if (!is_local_filesystem(*type)) return;
    const auto stat = procfs_.fd_stat(pid_, entry.number);
    if (!stat) return could_not_read(entry, stat.error());
    if ((stat->mode & S_IFMT) == S_IFCHR) return check_device(entry, stat->special);
    if ((stat->mode & S_IFMT) == S_IFREG && *type == "hugetlbfs") {
      reasons_.add(ReasonCode::hugetlb,
                   "QEMU has memory on hugetlbfs (" + printable(entry.link) + ")");
    }
  }

  void check_device(const sys::FdEntry& entry, dev_t special) {
    constexpr unsigned kPtsFirst = 136;
    constexpr unsigned kPtsLast = 143;
    if (major(special) >= kPtsFirst && major(special) <= kPtsLast) return;  // not in /sys/dev
    const auto name = procfs_.device_name(special);
    const string_view known = name ? string_view(*name) : string_view{};
    const std::string text = "device " + (known.empty() ? printable(entry.link) : printable(known));
    switch (judge_device(known)) {
      case Judged::harmless: return;
      case Judged::other_consumer:
        reasons_.add(ReasonCode::other_consumer, text + " reads or writes guest RAM by itself");
        return;
      case Judged::confidential:
        reasons_.add(ReasonCode::confidential_guest, text + " encrypts guest RAM");
        return;
      case Judged::unknown:
        reasons_.add(ReasonCode::unknown_descriptor,
                     text + " is not known: it may use RAM by itself");
        return;
    }
  }

  const sys::Procfs& procfs_;
  pid_t pid_;
  ReasonList& reasons_;
  FilesystemTypes types_;
  DescriptorFacts facts_;
};

}  // namespace

Judged judge_device(string_view name) noexcept {
  if (is_one_of(name, kConsumers) || begins_with_one_of(name, kConsumerPrefixes)) {
    return Judged::other_consumer;
  }
  if (name == "sev" || name.starts_with("tdx")) return Judged::confidential;
  if (is_one_of(name, kHarmlessDevices) || begins_with_one_of(name, kHarmlessDevicePrefixes) ||
      is_numbered(name, "sg") || is_numbered(name, "nvme")) {
    return Judged::harmless;
  }
  return Judged::unknown;
}

KernelObject judge_link(string_view link) noexcept {
  constexpr string_view kAnonymous = "anon_inode:";
  if (link.starts_with(kAnonymous)) return judge_anonymous(link.substr(kAnonymous.size()));
  if (link.starts_with("/dmabuf:")) return KernelObject::other_consumer;
  if (begins_with_one_of(link, kHarmlessSchemes)) return KernelObject::harmless;
  return KernelObject::none;
}

bool is_local_filesystem(string_view type) noexcept {
  constexpr std::array<string_view, 34> kTypes{
      "ext2",      "ext3",     "ext4",    "xfs",      "btrfs",  "tmpfs",     "devtmpfs",
      "hugetlbfs", "ramfs",    "overlay", "squashfs", "erofs",  "iso9660",   "udf",
      "vfat",      "exfat",    "ntfs3",   "f2fs",     "zfs",    "jfs",       "nilfs2",
      "bcachefs",  "reiserfs", "proc",    "sysfs",    "cgroup", "cgroup2",   "devpts",
      "debugfs",   "tracefs",  "mqueue",  "configfs", "rootfs", "securityfs"};
  return is_one_of(type, kTypes);
}

DescriptorFacts check_descriptors(const sys::Procfs& procfs, pid_t pid, ReasonList& reasons) {
  return DescriptorCheck(procfs, pid, reasons).run();
}

}  // namespace ramfold::guest
