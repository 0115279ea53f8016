// SPDX-License-Identifier: GPL-2.0-or-later
// A tree of /proc and /sys in which one QEMU is foldable; tests change one thing and look at the
// reasons.
#pragma once

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <string>

#include "guest/facts.hpp"
#include "sys/fake_tree.hpp"

namespace ramfold::test {

struct FakeVm {
  static constexpr pid_t kPid = 1000;
  static constexpr dev_t kDevice = 1;  // 00:01
  static constexpr ino_t kInode = 4242;
  static constexpr int kExt4Mount = 27;
  static constexpr int kFuseMount = 50;
  static constexpr int kOverlayMount = 51;

  FakeVm() {
    status();
    tree.write("proc/1000/stat", stat_of(555));
    arguments({"qemu-system-x86_64", "-M", "q35,memory-backend=mem"});
    maps(
        "55cbb7563000-55cbb796a000 r--p 00000000 fe:00 10977400   /usr/bin/qemu-system-x86_64\n"
        "7f0000000000-7f0004000000 rw-s 00000000 00:01 4242       /memfd:mem (deleted)\n");
    tree.write("proc/1000/mountinfo",
               "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
               "50 27 0:50 / /mnt/fuse rw - fuse.sshfs host: rw\n"
               "51 27 0:51 / /mnt/overlay rw - overlay overlay rw\n"
               "24 27 0:6 / /dev rw - devtmpfs devtmpfs rw\n"
               "29 27 0:9 / /hp rw - hugetlbfs hugetlbfs rw\n");
    tree.write("proc/self/mountinfo", "60 1 254:1 / / rw - xfs /dev/vdb rw\n");
    tree.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always advise [never] deny\n");
    object(3, "anon_inode:[eventfd]");
    object(4, "socket:[77]");
    object(5, "anon_inode:[userfaultfd]");
    file(6, "/images/disk.raw", kExt4Mount, 02100002);
  }

  void status(const char* locked_kib = "0", const char* uid = "64055") const {
    tree.write("proc/1000/status", std::string("Name:\tqemu\nUid:\t") + uid + "\t" + uid +
                                       "\t0\t0\nThreads:\t4\nVmSize:\t 1 kB\nVmLck:\t" +
                                       locked_kib + " kB\n");
  }
  static std::string stat_of(int ticks, const char* state = "S") {
    std::string stat = std::string("1000 (qemu) ") + state;
    for (int field = 4; field < 22; ++field) stat += " 1";
    return stat + " " + std::to_string(ticks) + "\n";
  }
  void arguments(std::initializer_list<const char*> words) const {
    std::string line;
    for (const char* word : words) (line += word).push_back('\0');
    tree.write("proc/1000/cmdline", line);
  }
  void maps(const std::string& text) const { tree.write("proc/1000/maps", text); }
  void smaps(const char* flags) const {
    tree.write("proc/1000/smaps",
               std::string("7f0000000000-7f0004000000 rw-s 00000000 00:01 4242  /memfd:mem\n"
                           "Size: 65536 kB\nVmFlags: ") +
                   flags + " \n");
  }
  void object(int fd, const char* link) const {
    tree.link("proc/1000/fd/" + std::to_string(fd), link);
    info(fd, 02, 0);
  }
  void info(int fd, unsigned flags, int mount, const char* more = "") const {
    char text[64];
    std::snprintf(text, sizeof text, "pos:\t0\nflags:\t0%o\nmnt_id:\t%d\n", flags, mount);
    tree.write("proc/1000/fdinfo/" + std::to_string(fd), std::string(text) + more);
  }
  void file(int fd, const char* path, int mount, unsigned flags, mode_t mode = S_IFREG) {
    tree.link("proc/1000/fd/" + std::to_string(fd), path);
    info(fd, flags, mount);
    procfs.stats[{kPid, fd}] = {.mode = mode, .device = 1, .inode = 2, .special = 0};
  }
  void device(int fd, const char* name, unsigned minor) {
    file(fd, "/dev/somewhere", 24, 02, S_IFCHR);
    procfs.stats[{kPid, fd}].special = makedev(10, minor);
    tree.write("sys/dev/char/10:" + std::to_string(minor) + "/uevent",
               std::string("MAJOR=10\nDEVNAME=") + name + "\n");
  }

  guest::VmToCheck check() const {
    guest::VmToCheck vm;
    vm.pid = kPid;
    vm.start_ticks = 555;
    vm.blocks = {&block, 1};
    return vm;
  }
  guest::Facts read() const { return read(check()); }
  guest::Facts read(const guest::VmToCheck& vm) const {
    return guest::ProcFacts(procfs, host).read(vm);
  }

  FakeTree tree;
  FakeProcfs procfs{tree};
  guest::HostFacts host;
  guest::RamBlock block{{kDevice, kInode}, HostVirt{0x7f0000000000}, ByteCount{64u << 20}, {}};
};

// The codes of the reasons, as names in their order, for a readable failure.
inline std::string codes(const guest::Facts& facts) {
  std::string names = facts.gone ? "gone" : "";
  for (const guest::Reason& reason : facts.reasons) {
    if (!names.empty()) names += " ";
    names += guest::name(reason.code);
  }
  return names;
}

}  // namespace ramfold::test
