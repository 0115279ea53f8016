// SPDX-License-Identifier: GPL-2.0-or-later
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <csignal>
#include <functional>
#include <future>
#include <thread>
#include <utility>

#include "guest/facts.hpp"
#include "guest/fake_vm.hpp"
#include "patience.hpp"
#include "sys/memory.hpp"

using namespace ramfold;
using namespace ramfold::guest;
using ramfold::test::codes;
using ramfold::test::FakeVm;

namespace {

void add_process(const FakeVm& vm, int pid, const std::string& maps, const char* uid = "64055") {
  const std::string base = "proc/" + std::to_string(pid) + "/";
  vm.tree.write(base + "maps", maps);
  vm.tree.write(base + "comm", "back\033end\n");
  vm.tree.link(base + "fd/0", "/dev/null");
  vm.tree.write(base + "status", std::string("Uid:\t") + uid + "\t0\t0\t0\nThreads:\t1\n");
}

constexpr const char* kRam = "7f5000000000-7f5000001000 r--s 00003000 00:01 4242 /memfd:mem\n";
constexpr const char* kElse = "7f5000000000-7f5000001000 r--s 00003000 00:01 4243 /memfd:mem\n";

constexpr pid_t kDaemon = 5;
constexpr RamFileId kStore{FakeVm::kDevice, 77};

OtherUses look(const FakeVm& vm) {
  const std::array files{ProcFacts::OwnedFile{vm.block.file, FakeVm::kPid}};
  return ProcFacts(vm.procfs, {}).other_uses(files, {kDaemon, kStore});
}

void add_memory_file(FakeVm& vm, pid_t pid, int fd, const RamFileId& file) {
  vm.tree.link("proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd), "/memfd:mem (deleted)");
  vm.procfs.stats[{pid, fd}] = {S_IFREG, file.device, file.inode, 0};
}

}  // namespace

TEST_CASE("another process that maps RAM, or holds its descriptor, is found") {
  FakeVm vm;
  add_memory_file(vm, FakeVm::kPid, 9, vm.block.file);
  add_process(vm, 7, kElse);
  CHECK(look(vm).uses.empty());

  SECTION("a mapping") {
    add_process(vm, 8, kRam);
    const OtherUses others = look(vm);
    REQUIRE(others.uses.size() == 1);
    CHECK(others.uses[0].pid == 8);
    CHECK(others.uses[0].how == OtherUse::How::maps);
    VmToCheck check = vm.check();
    check.others = &others;
    const Facts facts = vm.read(check);
    CHECK(facts.must_unfold());
    REQUIRE(codes(facts) == "other_mapper");
    CHECK(facts.reasons[0].text == "process 8 (back?end) maps the VM's RAM");
  }
  SECTION("a descriptor") {
    add_memory_file(vm, 7, 5, vm.block.file);
    const OtherUses others = look(vm);
    REQUIRE(others.uses.size() == 1);
    CHECK(others.uses[0].how == OtherUse::How::holds_descriptor);
    VmToCheck check = vm.check();
    check.others = &others;
    CHECK(codes(vm.read(check)) == "ram_fd_elsewhere");
  }
  SECTION("init holds the keeper's descriptors for it, but maps nothing") {
    add_process(vm, 1, kElse, "0");
    add_memory_file(vm, 1, 5, vm.block.file);
    CHECK(look(vm).uses.empty());
    add_process(vm, 1, kRam, "0");
    CHECK(look(vm).uses.size() == 1);
  }
  SECTION("the daemon is left out") {
    add_process(vm, kDaemon, kRam);
    CHECK(look(vm).uses.empty());
  }
}

TEST_CASE("who holds the store keeps RAM files for us, whatever its pid") {
  FakeVm vm;
  add_process(vm, 8, kElse, "0");
  const int store = GENERATE(4, 6);  // before and after the RAM file
  add_memory_file(vm, 8, 5, vm.block.file);
  SECTION("a keeper that the daemon has not reached yet") {
    add_memory_file(vm, 8, store, kStore);
    CHECK(look(vm).uses.empty());
  }
  SECTION("it maps RAM all the same") {
    add_process(vm, 8, kRam, "0");
    add_memory_file(vm, 8, store, kStore);
    REQUIRE(look(vm).uses.size() == 1);
    CHECK(look(vm).uses[0].how == OtherUse::How::maps);
  }
  SECTION("another file, of the same name") {
    add_memory_file(vm, 8, store, {FakeVm::kDevice, 78});
    CHECK(look(vm).uses.size() == 1);
  }
  SECTION("another process than the one that holds the store") {
    add_memory_file(vm, 8, store, kStore);
    add_process(vm, 9, kElse, "0");
    add_memory_file(vm, 9, 5, vm.block.file);
    REQUIRE(look(vm).uses.size() == 1);
    CHECK(look(vm).uses[0].pid == 9);
  }
}

TEST_CASE("a process that gives its descriptors up while it is looked at is no consumer") {
  FakeVm vm;
  add_process(vm, 8, kElse, "0");
  add_memory_file(vm, 8, 5, vm.block.file);
  vm.procfs.after_stat = [&](pid_t pid, int fd) {
    if (pid == 8) vm.tree.remove("proc/8/fd/" + std::to_string(fd));
  };
  CHECK(look(vm).uses.empty());
}

TEST_CASE("another VM's use is no reason for this one") {
  FakeVm vm;
  const OtherUses others{{{RamFileId{FakeVm::kDevice, 1}, 8, "x", OtherUse::How::maps}}, {}, 2};
  VmToCheck check = vm.check();
  check.others = &others;
  CHECK(vm.read(check).foldable());
}

TEST_CASE("a process too large to check stands against the VMs of its own user only") {
  FakeVm vm;
  std::string maps;
  for (std::size_t i = 0; i <= sys::kMappingsMax; ++i) maps += "1000-2000 rw-p 0 00:00 0\n";
  SECTION("another user") {
    add_process(vm, 8, maps, "1001");
    const OtherUses others = look(vm);
    VmToCheck check = vm.check();
    check.others = &others;
    CHECK(others.unchecked_uids == std::vector<uid_t>{1001});
    CHECK(vm.read(check).foldable());
  }
  SECTION("the same user") {
    add_process(vm, 8, maps);
    const OtherUses others = look(vm);
    VmToCheck check = vm.check();
    check.others = &others;
    CHECK(codes(vm.read(check)) == "unreadable");
  }
}

TEST_CASE("a process that ends during the pass is left out") {
  FakeVm vm;
  vm.tree.write("proc/8/comm", "x");  // no maps, no fd any more
  const OtherUses others = look(vm);
  CHECK(others.uses.empty());
  CHECK(others.unchecked_uids.empty());
}

TEST_CASE("a child of QEMU's that keeps its RAM is found, one that has had its exec is not") {
  FakeVm vm;
  add_process(vm, 8, kRam);
  const std::string status = "Uid:\t64055\t0\t0\t0\nThreads:\t1\nPPid:\t1000\n";
  vm.tree.write("proc/8/status", status);
  SECTION("it keeps it") {
    const OtherUses others = look(vm);
    REQUIRE(others.uses.size() == 1);
    CHECK(others.uses[0].pid == 8);
  }
  SECTION("another VM's RAM beside its parent's") {
    add_process(vm, 8, std::string(kRam) + kElse);
    vm.tree.write("proc/8/status", status);
    const std::array files{ProcFacts::OwnedFile{vm.block.file, FakeVm::kPid},
                           ProcFacts::OwnedFile{{FakeVm::kDevice, 4243}, 1001}};
    CHECK(ProcFacts(vm.procfs, {}).other_uses(files, {kDaemon, kStore}).uses.size() == 2);
  }
}

namespace {

// This process as QEMU: its RAM, and a look at who else uses it.
struct Parent {
  sys::Fd file = std::move(*sys::make_memfd("memory-backend-memfd", kSize, sys::Sealed::yes));
  sys::Mapping ram = std::move(*sys::Mapping::shared(file, kSize));
  static constexpr ByteCount kSize{1u << 20};

  RamFileId id() const {
    struct stat s{};
    REQUIRE(::fstat(file.get(), &s) == 0);
    return {s.st_dev, s.st_ino};
  }
  std::vector<OtherUse> others(const sys::Procfs& procfs) const {
    const std::array files{ProcFacts::OwnedFile{id(), ::getpid()}};
    return ProcFacts(procfs, {}).other_uses(files, {-1, kStore}).uses;
  }
};

// Tells of each look at another process that holds the RAM file.
struct WatchedProcfs final : sys::Procfs {
  WatchedProcfs(RamFileId file_to_watch, std::function<void(pid_t)> tell)
      : file(file_to_watch), on_look(std::move(tell)) {}
  Result<sys::FileStat> fd_stat(pid_t pid, int fd) const override {
    const auto stat = Procfs::fd_stat(pid, fd);
    if (pid != ::getpid() && stat && RamFileId{stat->device, stat->inode} == file) on_look(pid);
    return stat;
  }
  const RamFileId file;
  const std::function<void(pid_t)> on_look;
};

// Between vfork and exec from the byte that it writes to `there` until `go` can be read.
pid_t vfork_child(int there, int go) {
  char byte = 0;
  // A child that stays between the two calls is what is tested.
  // NOLINTBEGIN(bugprone-unsafe-functions,clang-analyzer-unix.Vfork)
  const pid_t pid = ::vfork();
  if (pid != 0) return pid;
  (void)!::write(there, &byte, 1);
  (void)!::read(go, &byte, 1);
  ::execl("/bin/sleep", "sleep", "60", nullptr);
  ::_exit(1);
  // NOLINTEND(bugprone-unsafe-functions,clang-analyzer-unix.Vfork)
}

}  // namespace

TEST_CASE("a child between vfork and exec is no user of RAM, unless it stays there") {
  const Parent parent;
  std::array<int, 2> there{};
  std::array<int, 2> go{};
  REQUIRE(::pipe2(there.data(), O_CLOEXEC) == 0);
  REQUIRE(::pipe2(go.data(), O_CLOEXEC) == 0);
  std::promise<pid_t> child;
  std::thread qemu([&] { child.set_value(vfork_child(there[1], go[0])); });  // held by its vfork
  char byte = 0;
  REQUIRE(::read(there[0], &byte, 1) == 1);
  const auto go_on = [&] { (void)!::write(go[1], "x", 1); };
  SECTION("it stays") {
    const auto found = parent.others(sys::Procfs());
    go_on();
    CHECK(found.size() == 1);
    if (!found.empty()) CHECK(found[0].how == OtherUse::How::maps);
  }
  SECTION("its exec comes a moment later") {
    // The pass looks twice, and finds it. The third look is the first one that came after a wait.
    int looks = 0;
    const WatchedProcfs procfs(parent.id(), [&](pid_t pid) {
      if (++looks != 3) return;
      go_on();
      CHECK(test::soon([&] { return sys::Procfs().command(pid) == "sleep"; }));
    });
    CHECK(parent.others(procfs).empty());
    CHECK(looks == 3);
  }
  const pid_t pid = child.get_future().get();
  qemu.join();
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  for (const int end : {there[0], there[1], go[0], go[1]}) ::close(end);
}
