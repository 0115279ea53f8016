// SPDX-License-Identifier: GPL-2.0-or-later
// The allow-list of descriptors: what is not known is a hazard.
#include "agent/fdkind.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>

namespace {

rf_fd_facts of(uint32_t mode) {
  rf_fd_facts facts{};
  facts.mode = mode;
  return facts;
}
uint32_t regular(uint64_t filesystem, bool direct = false, bool write_only = false) {
  rf_fd_facts facts = of(S_IFREG | 0644);
  facts.filesystem = filesystem;
  facts.direct = direct ? 1 : 0;
  facts.write_only = write_only ? 1 : 0;
  facts.link = "/some/file";
  return rf_fd_hazard(&facts);
}
uint32_t device(uint32_t major_number, uint32_t minor_number, const char* name = nullptr) {
  rf_fd_facts facts = of(S_IFCHR | 0600);
  facts.device_major = major_number;
  facts.device_minor = minor_number;
  facts.name = name;
  return rf_fd_hazard(&facts);
}
uint32_t object(const char* link) {
  rf_fd_facts facts = of(0600);
  facts.link = link;
  return rf_fd_hazard(&facts);
}

constexpr uint64_t kExt4 = 0xEF53, kXfs = 0x58465342, kTmpfs = 0x01021994, kFuse = 0x65735546,
                   kNfs = 0x6969, kOverlay = 0x794c7630, k9p = 0x01021997, kCifs = 0xFF534D42;

}  // namespace

TEST_CASE("regular files") {
  for (const uint64_t type : {kExt4, kXfs, kTmpfs}) {
    CHECK(regular(type) == 0);
    CHECK(regular(type, true) == RF_HAZARD_DIRECT_IO);
    CHECK(regular(type, true, true) == 0);  // only written: no byte comes into RAM
  }
  for (const uint64_t type : {kFuse, kNfs, kOverlay, k9p, kCifs, uint64_t{0}}) {
    CHECK(regular(type) == RF_HAZARD_FILESYSTEM);
    CHECK(regular(type, true) == (RF_HAZARD_FILESYSTEM | RF_HAZARD_DIRECT_IO));
  }
  rf_fd_facts path = of(S_IFREG);
  path.path_only = 1;
  CHECK(rf_fd_hazard(&path) == 0);
  rf_fd_facts buffer = of(S_IFREG);
  buffer.link = "/dmabuf:";
  CHECK(rf_fd_hazard(&buffer) == RF_HAZARD_DEVICE);
}

TEST_CASE("what is no file") {
  for (const uint32_t mode : {S_IFDIR, S_IFIFO, S_IFSOCK}) {
    rf_fd_facts facts = of(mode);
    facts.direct = 1;  // packets, on a pipe
    CHECK(rf_fd_hazard(&facts) == 0);
  }
  rf_fd_facts disk = of(S_IFBLK);
  CHECK(rf_fd_hazard(&disk) == 0);
  disk.direct = 1;
  CHECK(rf_fd_hazard(&disk) == RF_HAZARD_DIRECT_IO);
}

TEST_CASE("character devices") {
  CHECK(device(1, 3) == 0);     // null
  CHECK(device(1, 9) == 0);     // urandom
  CHECK(device(136, 2) == 0);   // pts
  CHECK(device(10, 232) == 0);  // kvm
  CHECK(device(10, 200) == 0);  // tun
  CHECK(device(10, 238) == 0);  // vhost-net
  CHECK(device(250, 0, "rtc0") == 0);
  CHECK(device(240, 7, "tap7") == 0);
  CHECK(device(10, 60, "vsock") == 0);
  CHECK(device(252, 65536, "tpmrm0") == 0);
  CHECK(device(1, 1) == RF_HAZARD_DEVICE);  // mem
  CHECK(device(10, 196, "vfio") == RF_HAZARD_DEVICE);
  CHECK(device(511, 0, "vhost-vdpa-0") == RF_HAZARD_DEVICE);
  CHECK(device(10, 125, "udmabuf") == RF_HAZARD_DEVICE);
  CHECK(device(10, 59, "vhost-scsi") == RF_HAZARD_DEVICE);
  CHECK(device(226, 128, "renderD128") == RF_HAZARD_DEVICE);
  CHECK(device(231, 192, "uverbs0") == RF_HAZARD_DEVICE);
  CHECK(device(10, 229, "fuse") == RF_HAZARD_DEVICE);
  CHECK(device(10, 60, "tapdance") == RF_HAZARD_DEVICE);
  CHECK(device(10, 60) == RF_HAZARD_DEVICE);
  CHECK(device(21, 0, "sg0") == RF_HAZARD_SG_IO);
}

TEST_CASE("kernel objects") {
  for (const char* link :
       {"anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[timerfd]",
        "anon_inode:[signalfd]", "anon_inode:inotify", "anon_inode:[io_uring]", "anon_inode:kvm-vm",
        "anon_inode:kvm-vcpu:0", "anon_inode:kvm-vcpu-stats:0", "anon_inode:[userfaultfd]",
        "anon_inode:bpf-prog"})
    CHECK(object(link) == 0);
  for (const char* link : {"anon_inode:[vfio-device]", "anon_inode:kvm-vfio", "anon_inode:[new]",
                           "anon_inode:[kvm-gmem]", "/dmabuf:", "anything"})
    CHECK(object(link) == RF_HAZARD_DEVICE);
  CHECK(object(nullptr) == RF_HAZARD_DEVICE);
}
