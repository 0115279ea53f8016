// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/facts.hpp"

#include <fcntl.h>

#include <catch2/catch.hpp>
#include <set>

#include "agent/wire.h"
#include "guest/fake_vm.hpp"

using namespace ramfold;
using namespace ramfold::guest;
using ramfold::test::codes;
using ramfold::test::FakeVm;

TEST_CASE("a stock QEMU with a good agent is foldable") {
  const FakeVm vm;
  const Facts facts = vm.read();
  CHECK(codes(facts).empty());
  CHECK(facts.foldable());
  CHECK_FALSE(facts.must_unfold());
}

TEST_CASE("every code has a name of its own, and every reason a text and a remedy") {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kReasonCodes; ++i) {
    const auto code = static_cast<ReasonCode>(i);
    names.insert(name(code));
  }
  CHECK(names.size() == kReasonCodes);
  FakeVm vm;
  vm.object(7, "anon_inode:[frobnicator]");
  const Facts facts = vm.read();
  REQUIRE(facts.reasons.size() == 1);
  CHECK(facts.reasons[0].text ==
        "descriptor 7 (anon_inode:[frobnicator]) is not known: it may give RAM to a device");
  CHECK_FALSE(facts.reasons[0].remedy.empty());
}

TEST_CASE("D2: whatever a disk is opened with or lies on is no reason") {
  FakeVm vm;
  SECTION("O_DIRECT") { vm.file(7, "/d", FakeVm::kExt4Mount, O_RDWR | O_DIRECT); }
  SECTION("O_DIRECT on a block device") { vm.file(7, "/dev/sda", 24, O_RDWR | O_DIRECT, S_IFBLK); }
  SECTION("FUSE, which is not asked") {
    vm.file(7, "/mnt/fuse/d", FakeVm::kFuseMount, O_RDWR);
    vm.procfs.stats.erase({FakeVm::kPid, 7});
  }
  SECTION("overlay") { vm.file(7, "/mnt/overlay/d", FakeVm::kOverlayMount, O_RDWR | O_DIRECT); }
  SECTION("a mount nobody names, with a magic nobody knows, which is not asked") {
    vm.file(7, "/d", 999, O_RDWR);
    vm.procfs.filesystems[{FakeVm::kPid, 7}] = 0x6969;  // NFS
    vm.procfs.stats.erase({FakeVm::kPid, 7});
  }
  SECTION("a generic SCSI device") { vm.device(7, "sg0", 1); }
  SECTION("SCSI by bsg") { vm.device(7, "bsg/0:0:0:0", 1); }
  SECTION("an NVMe namespace's character device") { vm.device(7, "ng0n1", 1); }
  SECTION("an NVMe controller") { vm.device(7, "nvme0", 1); }
  SECTION("the kernel's SCSI target, which takes pages request by request") {
    vm.device(7, "vhost-scsi", 1);
  }
  SECTION("scsi-block on the command line") {
    vm.arguments({"qemu", "-device", "scsi-block,drive=d"});
  }
  SECTION("an io_uring, with registered buffers or without") {
    vm.object(7, "anon_inode:[io_uring]");
    vm.info(7, O_RDWR, 0, "UserBufs:\t4\n");
  }
  SECTION("a guest that may run guests") {
    vm.object(7, "anon_inode:kvm-vm");
    vm.tree.write("sys/module/kvm_intel/parameters/nested", "Y\n");
    vm.arguments({"qemu", "-cpu", "host"});
  }
  CHECK(codes(vm.read()).empty());
}

TEST_CASE("devices and kernel objects that nobody knows stop folding, not more") {
  FakeVm vm;
  SECTION("a device nobody knows") { vm.device(7, "frobnicator", 1); }
  SECTION("a device without a name") { vm.file(7, "/dev/x", 24, O_RDWR, S_IFCHR); }
  SECTION("a kernel object nobody knows") { vm.object(7, "anon_inode:[frobnicator]"); }
  const Facts facts = vm.read();
  CHECK(codes(facts) == "unknown_descriptor");
  CHECK_FALSE(facts.must_unfold());
}

TEST_CASE("descriptors that give RAM to nobody are no reason") {
  FakeVm vm;
  SECTION("O_PATH") { vm.file(7, "/mnt/fuse/x", FakeVm::kFuseMount, O_PATH); }
  SECTION("a directory on FUSE") { vm.file(7, "/mnt/fuse", FakeVm::kFuseMount, O_DIRECTORY); }
  SECTION("a directory") { vm.file(7, "/mnt/overlay", FakeVm::kOverlayMount, 0, S_IFDIR); }
  SECTION("a fifo") { vm.file(7, "/fifo", FakeVm::kOverlayMount, O_RDWR, S_IFIFO); }
  SECTION("a block device") { vm.file(7, "/dev/sda", 24, O_RDWR, S_IFBLK); }
  SECTION("a mount of our own namespace") { vm.file(7, "/srv/d", 60, O_RDWR); }
  SECTION("a memory file") {
    vm.file(7, "/memfd:mem (deleted)", 0, O_RDWR);
    vm.procfs.filesystems[{FakeVm::kPid, 7}] = 0x01021994;
  }
  SECTION("a pseudo-terminal") {
    vm.file(7, "/dev/pts/3", 24, O_RDWR, S_IFCHR);
    vm.procfs.stats[{FakeVm::kPid, 7}].special = makedev(136, 3);
  }
  SECTION("closed while it was looked at") { vm.tree.link("proc/1000/fd/7", "/images/gone"); }
  for (const char* name : {"null", "kvm", "net/tun", "vhost-net", "tap3", "urandom", "ttyS0",
                           "rtc0", "userfaultfd", "bus/usb/001/004"}) {
    vm.device(8, name, 9);
    CHECK(codes(vm.read()).empty());
  }
}

TEST_CASE("another consumer of RAM demands that everything comes back") {
  FakeVm vm;
  for (const char* name : {"vfio/12", "vfio/vfio", "vhost-vdpa-0", "udmabuf", "dri/renderD128",
                           "infiniband/uverbs0", "iommu"}) {
    vm.device(7, name, 1);
    CHECK(codes(vm.read()) == "other_consumer");
    CHECK(vm.read().must_unfold());
  }
  vm.tree.remove("proc/1000/fd/7");
  for (const char* link : {"anon_inode:[vfio-device]", "anon_inode:kvm-vfio", "/dmabuf:"}) {
    vm.object(7, link);
    CHECK(codes(vm.read()) == "other_consumer");
    CHECK(vm.read().must_unfold());
  }
  vm.tree.remove("proc/1000/fd/7");
  vm.arguments({"qemu", "-netdev", "vhost-user,chardev=c,id=n"});
  CHECK(codes(vm.read()) == "ram_fd_elsewhere");
  CHECK(vm.read().must_unfold());
}

TEST_CASE("RAM must be mapped exactly where the agent said, shared, writable, once") {
  const FakeVm vm;
  const std::string rest = " 00:01 4242 /memfd:mem (deleted)\n";
  SECTION("elsewhere") { vm.maps("7f1000000000-7f1004000000 rw-s 00000000" + rest); }
  SECTION("private") { vm.maps("7f0000000000-7f0004000000 rw-p 00000000" + rest); }
  SECTION("read-only") { vm.maps("7f0000000000-7f0004000000 r--s 00000000" + rest); }
  SECTION("another offset") { vm.maps("7f0000000000-7f0004000000 rw-s 00001000" + rest); }
  SECTION("in part") { vm.maps("7f0000000000-7f0003fff000 rw-s 00000000" + rest); }
  SECTION("beyond") { vm.maps("7f0000000000-7f0004001000 rw-s 00000000" + rest); }
  SECTION("twice") {
    vm.maps("7f0000000000-7f0004000000 rw-s 00000000" + rest +
            "7f1000000000-7f1000001000 r--s 00000000" + rest);
  }
  SECTION("not at all") { vm.maps("55cbb7563000-55cbb796a000 r--p 00000000 fe:00 1 /x\n"); }
  CHECK(codes(vm.read()) == "ram_layout");
  CHECK(vm.read().must_unfold());
}

TEST_CASE("RAM in several adjacent mappings is in place") {
  const FakeVm vm;
  vm.maps(
      "7f0000000000-7f0001000000 rw-s 00000000 00:01 4242 /memfd:mem\n"
      "7f0001000000-7f0004000000 rw-s 01000000 00:01 4242 /memfd:mem\n");
  CHECK(codes(vm.read()).empty());
}

TEST_CASE("a mapping that can only be written is the agent's, for a moment") {
  const FakeVm vm;
  const std::string ram = "7f0000000000-7f0004000000 rw-s 00000000 00:01 4242 /memfd:mem\n";
  const std::string rest = " 01000000 00:01 4242 /memfd:memory-backend-memfd\n";
  vm.tree.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "[always] never\n");
  vm.tree.write("proc/1000/smaps", ram + "VmFlags: rd wr sh nh dc\n" +
                                       "7f1000000000-7f1000040000 -w-s" + rest +
                                       "VmFlags: wr sh\n");  // before its advice
  vm.maps(ram + "7f1000000000-7f1000040000 -w-s" + rest);
  CHECK(codes(vm.read()).empty());
  CHECK(vm.read().ram_beside.value == 0);
  vm.maps(ram + "7f1000000000-7f1000041000 -w-s" + rest);  // more than the agent's
  CHECK(codes(vm.read()) == "ram_layout");
  vm.maps(ram + "7f1000000000-7f1000040000 -w-p" + rest);
  CHECK(codes(vm.read()) == "ram_layout");
  vm.maps(
      "7f0000000000-7f0003fff000 rw-s 00000000 00:01 4242 /memfd:mem\n"
      "7f0003fff000-7f0004000000 -w-s 03fff000 00:01 4242 /memfd:mem\n");
  CHECK(codes(vm.read()) == "ram_layout");
}

TEST_CASE("RAM that is plugged in later is told, and no reason against the rest") {
  FakeVm vm;
  CHECK(vm.read().ram_beside.value == 0);
  vm.maps(
      "7f0000000000-7f0004000000 rw-s 00000000 00:01 4242 /memfd:memory-backend-memfd (deleted)\n"
      "7f1000000000-7f1000200000 rw-s 00000000 00:01 4243 /memfd:memory-backend-memfd (deleted)\n"
      "7f1800000000-7f1800100000 rw-p 00000000 00:01 4245 /memfd:memory-backend-memfd (deleted)\n"
      "7f2000000000-7f2000200000 rw-s 00000000 00:01 4244 /memfd:rom (deleted)\n");
  const Facts facts = vm.read();
  CHECK(facts.foldable());
  CHECK(facts.ram_beside.value == 3u << 20);  // shared and private
}

TEST_CASE("hugetlbfs is refused, by mapping or by descriptor") {
  FakeVm vm;
  SECTION("mapping") {
    vm.maps(
        "7f0000000000-7f0004000000 rw-s 00000000 00:01 4242 /memfd:mem\n"
        "7f2000000000-7f2000200000 rw-s 00000000 00:0f 9 /anon_hugepage (deleted)\n");
  }
  SECTION("descriptor") { vm.file(7, "/hp/ram", 29, O_RDWR); }
  CHECK(codes(vm.read()) == "hugetlb");
}

TEST_CASE("locked memory and large folios are told from smaps, read when they matter") {
  FakeVm vm;
  const auto huge = [&](const char* text) {
    vm.tree.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", text);
  };
  SECTION("locked RAM") {
    vm.status("64");
    vm.smaps("rd wr sh mr mw me ms lo dc");
    CHECK(codes(vm.read()) == "locked_memory");
    CHECK(vm.read().must_unfold());
  }
  SECTION("something else is locked") {
    vm.status("64");
    vm.smaps("rd wr sh mr mw me ms dc");
    CHECK(codes(vm.read()).empty());
  }
  SECTION("large folios, excluded by the agent") {
    huge("always [advise] never\n");
    vm.smaps("rd wr sh mr mw me ms dc nh");
    CHECK(codes(vm.read()).empty());
    huge("always advise never [force]\n");
    CHECK(codes(vm.read()) == "large_folios");
  }
  SECTION("large folios, not excluded") {
    huge("[always] advise never\n");
    vm.smaps("rd wr sh mr mw me ms dc hg");
    CHECK(codes(vm.read()) == "large_folios");
    CHECK_FALSE(vm.read().must_unfold());
  }
  SECTION("a quick read does not read smaps again until something changed") {
    vm.status("64");
    vm.smaps("rd wr sh dc");
    const Facts first = vm.read();
    CHECK(first.foldable());
    vm.smaps("rd wr sh lo dc");
    VmToCheck next = vm.check();
    next.last = &first.slow;
    CHECK(vm.read(next).foldable());
    next.depth = Depth::full;
    CHECK(codes(vm.read(next)) == "locked_memory");
    next.depth = Depth::quick;
    vm.status("128");
    CHECK(codes(vm.read(next)) == "locked_memory");
  }
  SECTION("what was never read is not taken from the last read") {
    const Facts first = vm.read();
    huge("always [advise] never\n");
    vm.smaps("rd wr sh dc hg");
    VmToCheck next = vm.check();
    next.last = &first.slow;
    CHECK(codes(vm.read(next)) == "large_folios");
  }
}

TEST_CASE("large folios that others make are nothing against a VM that holds none") {
  FakeVm vm;
  const auto made = [&](const char* n) {
    vm.tree.write("proc/vmstat", std::string("nr_free_pages 1\nthp_file_alloc ") + n + "\n");
  };
  vm.smaps("rd wr sh mr mw me ms dc nh");
  VmToCheck check = vm.check();
  check.agent_capabilities &= ~std::uint64_t{RF_CAP_SMALL_FOLIOS};  // an older agent
  Facts last;
  const auto next = [&](Depth depth = Depth::quick) {
    const SlowFacts before = last.slow;
    check.last = &before;
    check.depth = depth;
    last = vm.read(check);
    return codes(last);
  };
  SECTION("made after the attach") {
    made("0");
    last = vm.read(check);
    CHECK(codes(last).empty());
    made("7");
    CHECK(next().empty());
    made("9");
    CHECK(next().empty());
    CHECK(next(Depth::full).empty());
    // The agent does not keep them out any more, so it is not known what RAM holds.
    vm.smaps("rd wr sh mr mw me ms dc");
    made("10");
    CHECK(next(Depth::full) == "unreadable");
    CHECK_FALSE(last.must_unfold());
  }
  SECTION("made before the attach: an agent that has kept them out from the first") {
    made("7");
    check.agent_capabilities |= RF_CAP_SMALL_FOLIOS;
    last = vm.read(check);
    CHECK(codes(last).empty());
    vm.smaps("rd wr sh mr mw me ms dc");
    made("8");
    CHECK(next(Depth::full) == "unreadable");
  }
  SECTION("made before the attach: an older agent") {
    made("7");
    last = vm.read(check);
    REQUIRE(codes(last) == "unreadable");
    CHECK(last.reasons[0].text.find("large folios from before") != std::string::npos);
    CHECK(last.reasons[0].remedy.find("restart the VM") != std::string::npos);
    vm.procfs.frames_hold_large = false;
    CHECK(next().empty());
    vm.procfs.frames_hold_large.reset();
    made("8");
    CHECK(next().empty());
  }
  SECTION("made between the first look and the agent's advice") {
    made("0");
    check.agent_answers = false;
    last = vm.read(check);
    CHECK(codes(last) == "agent_silent");
    made("7");
    check.agent_answers = true;
    CHECK(next() == "unreadable");
  }
  SECTION("its RAM holds some") {
    made("7");
    vm.procfs.frames_hold_large = true;
    last = vm.read(check);
    CHECK(codes(last) == "large_folios");
    vm.procfs.frames_hold_large = false;
    CHECK(next() == "large_folios");
    CHECK(next(Depth::full) == "large_folios");
    made("8");  // looked at again no more often than that
    CHECK(next() == "large_folios");
    made("9");
    CHECK(next(Depth::full).empty());
  }
}

TEST_CASE("migration, snapshots and confidential guests") {
  FakeVm vm;
  VmToCheck check = vm.check();
  SECTION("incoming") {
    vm.arguments({"qemu", "-incoming", "defer"});
    CHECK(codes(vm.read(check)) == "incoming_migration");
    check.incoming_finished = true;
    CHECK(codes(vm.read(check)).empty());
  }
  SECTION("a userfaultfd of QEMU's own") {
    vm.object(7, "anon_inode:[userfaultfd]");
    CHECK(codes(vm.read(check)) == "other_userfaultfd");
    CHECK(vm.read(check).must_unfold());
    CHECK(vm.read(check).own_userfaultfd);
    CHECK_FALSE(vm.read(check).must_stay_unfolded());
    check.agent_uffds = 2;
    CHECK(codes(vm.read(check)).empty());
    CHECK_FALSE(vm.read(check).own_userfaultfd);
  }
  SECTION("a userfaultfd of QEMU's own that is closed") {
    check.agent_hazards = RF_HAZARD_OTHER_UFFD;
    CHECK(codes(vm.read(check)) == "other_userfaultfd");
    CHECK(vm.read(check).must_unfold());
    CHECK_FALSE(vm.read(check).own_userfaultfd);
    CHECK_FALSE(vm.read(check).must_stay_unfolded());
    check.agent_hazards |= RF_HAZARD_DEVICE;
    CHECK(vm.read(check).must_stay_unfolded());
  }
  SECTION("SEV") {
    vm.arguments({"qemu", "--machine", "q35,confidential-guest-support=sev0", "-object",
                  "sev-guest,id=sev0"});
    CHECK(codes(vm.read(check)) == "confidential_guest");
  }
  SECTION("guest_memfd") {
    vm.object(7, "anon_inode:[kvm-gmem]");
    CHECK(codes(vm.read(check)) == "confidential_guest");
  }
}

TEST_CASE("host and agent") {
  FakeVm vm;
  VmToCheck check = vm.check();
  SECTION("kernel") {
    vm.host.kernel = "6.1.0";
    vm.host.kernel_folds = false;
    CHECK(codes(vm.read(check)) == "kernel_too_old");
  }
  SECTION("self-test") {
    vm.host.self_test_passed = false;
    CHECK(codes(vm.read(check)) == "self_test_failed");
  }
  SECTION("a kernel that does not tell who holds a page, with a remedy of its own") {
    vm.host.no_pin_test = {"this kernel says nothing", "boot another"};
    const Facts facts = vm.read(check);
    CHECK(codes(facts) == "no_pin_test");
    CHECK(facts.reasons[0].text ==
          "the kernel cannot be asked who holds a page: this kernel says nothing");
    CHECK(facts.reasons[0].remedy == "boot another");
    CHECK_FALSE(facts.foldable());
    CHECK_FALSE(facts.must_unfold());
  }
  SECTION("silent agent") {
    check.agent_answers = false;
    CHECK(codes(vm.read(check)) == "agent_silent");
  }
  SECTION("agent without a capability") {
    check.agent_capabilities = RF_CAP_DISCARD | RF_CAP_CONSUMERS;
    CHECK(codes(vm.read(check)) == "agent_incomplete");
  }
  SECTION("each hazard is a reason, but for those that older agents tell of writes in flight") {
    check.agent_hazards = 0xf;
    CHECK(vm.read(check).foldable());
    for (unsigned bit = 4; bit < 32; ++bit) {
      check.agent_hazards = 1u << bit;
      CHECK(vm.read(check).reasons.size() == 1);
    }
    check.agent_hazards = RF_HAZARD_RAM_FD_PASSED;
    CHECK(vm.read(check).must_unfold());
    check.agent_hazards = ~0u;
    CHECK(vm.read(check).reasons.size() == 7);
  }
}

TEST_CASE("a process that is gone, ended or another one is gone") {
  FakeVm vm;
  VmToCheck check = vm.check();
  SECTION("gone") { vm.tree.remove("proc/1000"); }
  SECTION("not waited for") { vm.tree.write("proc/1000/stat", FakeVm::stat_of(555, "Z")); }
  SECTION("another one with its pid") { check.start_ticks = 554; }
  SECTION("gone between two files") { vm.tree.remove("proc/1000/cmdline"); }
  CHECK(codes(vm.read(check)) == "gone");
  CHECK_FALSE(vm.read(check).foldable());
  CHECK_FALSE(vm.read(check).must_unfold());
}

TEST_CASE("too much to check is a reason, and a bounded one") {
  FakeVm vm;
  SECTION("mappings") {
    std::string maps;
    for (std::size_t i = 0; i <= sys::kMappingsMax; ++i) maps += "1000-2000 rw-p 0 00:00 0\n";
    vm.maps(maps);
    CHECK(codes(vm.read()) == "unreadable");
  }
  SECTION("a command line") {
    vm.tree.write("proc/1000/cmdline", std::string(sys::kCmdlineMax.value + 1, 'x'));
    CHECK(codes(vm.read()) == "unreadable");
  }
  SECTION("reasons") {
    for (int fd = 10; fd < 200; ++fd) {
      vm.object(fd, ("anon_inode:[x" + std::to_string(fd) + "]").c_str());
    }
    CHECK(vm.read().reasons.size() == kReasonsMax);
  }
}

TEST_CASE("a hostile name cannot write to the operator's terminal") {
  FakeVm vm;
  vm.object(7, "anon_inode:[a\033[2Jb\nc]");
  const Facts facts = vm.read();
  REQUIRE(facts.reasons.size() == 1);
  CHECK(facts.reasons[0].text.starts_with("descriptor 7 (anon_inode:[a?[2Jb?c]) is not known"));
}
