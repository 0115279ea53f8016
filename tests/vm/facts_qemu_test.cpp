// SPDX-License-Identifier: GPL-2.0-or-later
// The facts of a real, stock QEMU: what its descriptors, mappings and command line say. The guest's
// CPU never starts (-S): the facts are about the process. Skipped (77) without QEMU.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "guest/facts.hpp"
#include "patience.hpp"

using namespace ramfold;
using namespace ramfold::guest;

namespace {

constexpr const char* kQemu = "/usr/bin/qemu-system-x86_64";
constexpr ByteCount kRam{64u << 20};

void wait_a_moment() { ::usleep(20'000); }

class Qemu {
 public:
  explicit Qemu(std::vector<std::string> more) {
    if (::access(kQemu, X_OK) != 0) {
      std::puts("skipped: qemu-system-x86_64 is not installed");
      std::_Exit(77);
    }
    std::vector<std::string> words{kQemu,
                                   "-M",
                                   "q35,memory-backend=mem",
                                   "-object",
                                   "memory-backend-memfd,id=mem,size=64M,share=on",
                                   "-display",
                                   "none",
                                   "-nodefaults",
                                   "-accel",
                                   "tcg,tb-size=32",
                                   "-S"};
    words.insert(words.end(), more.begin(), more.end());
    std::vector<char*> argv;
    argv.reserve(words.size() + 1);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int null = ::open("/dev/null", O_RDWR);
      if (null < 0) ::_exit(127);
      for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
      ::close_range(3, ~0u, 0);
      ::execv(kQemu, argv.data());
      ::_exit(127);
    }
    find_ram();
  }
  ~Qemu() { end(); }
  Qemu(const Qemu&) = delete;
  Qemu& operator=(const Qemu&) = delete;

  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -pid_;
  }
  pid_t pid() const { return pid_ < 0 ? -pid_ : pid_; }
  const RamBlock& block() const { return block_; }
  int ram_descriptor() const { return ram_descriptor_; }

  VmToCheck check() const {
    VmToCheck vm;
    vm.pid = pid();
    vm.start_ticks = start_ticks_;
    vm.blocks = {&block_, 1};
    vm.agent_uffds = 0;
    return vm;
  }

 private:
  // Waits until QEMU has opened its disks, which comes after RAM: it sleeps in its main loop then.
  void find_ram() {
    const auto is_up = [&] {
      wait_a_moment();
      block_ = {};
      procfs_.mappings(pid_, [&](const sys::MapEntry& entry) {
        if (!entry.path.starts_with("/memfd:")) return true;
        block_ = {{entry.device, entry.inode},
                  entry.begin,
                  ByteCount{entry.end.value - entry.begin.value},
                  {}};
        return false;
      });
      bool has_loop = false;
      procfs_.descriptors(pid_, [&](const sys::FdEntry& entry) {
        if (entry.link.starts_with("/memfd:")) ram_descriptor_ = entry.number;
        has_loop = has_loop || entry.link == "anon_inode:[signalfd]";
        return true;
      });
      return block_.size == kRam && has_loop && is_idle();
    };
    REQUIRE(test::soon(is_up, 30'000));
    start_ticks_ = procfs_.start_ticks(pid_).value();
  }
  bool is_idle() const {
    std::FILE* file = std::fopen(("/proc/" + std::to_string(pid_) + "/wchan").c_str(), "r");
    char text[64] = {};
    if (file != nullptr) {
      (void)!std::fread(text, 1, sizeof text - 1, file);
      std::fclose(file);
    }
    return std::strstr(text, "poll") != nullptr;
  }

  sys::Procfs procfs_;
  pid_t pid_ = -1;
  int ram_descriptor_ = -1;
  RamBlock block_;
  std::uint64_t start_ticks_ = 0;
};

class Disk {
 public:
  Disk() {
    char name[] = "facts-disk-XXXXXX";
    const int fd = ::mkstemp(name);
    REQUIRE(fd >= 0);
    REQUIRE(::ftruncate(fd, 8 << 20) == 0);
    ::close(fd);
    path_ = std::filesystem::absolute(name);
  }
  ~Disk() { std::filesystem::remove(path_); }
  std::vector<std::string> with_cache(const char* cache) const {
    return {"-drive", "if=virtio,format=raw,file=" + path_ + ",cache=" + cache};
  }

 private:
  std::string path_;
};

const sys::Procfs procfs;
const ProcFacts facts_reader(procfs, {});

// The reasons' names. Whether large folios are possible is the host's affair.
std::set<std::string_view> reasons_of(const VmToCheck& vm) {
  std::set<std::string_view> names;
  for (const Reason& reason : facts_reader.read(vm).reasons) {
    UNSCOPED_INFO(reason.text);
    if (reason.code != ReasonCode::large_folios) names.insert(name(reason.code));
  }
  return names;
}
using Names = std::set<std::string_view>;

OtherUses others_of(const Qemu& qemu) {
  const std::array files{ProcFacts::OwnedFile{qemu.block().file, qemu.pid()}};
  return facts_reader.other_uses(files, {.daemon = ::getpid(), .store = {}});
}

}  // namespace

TEST_CASE("a disk is foldable, with cache=none too") {
  const Disk disk;
  {
    const Qemu qemu(disk.with_cache("writeback"));
    CHECK(reasons_of(qemu.check()).empty());
    const std::uint64_t began = thread_cpu_ns();
    constexpr int kReads = 50;
    for (int i = 0; i < kReads; ++i) (void)facts_reader.read(qemu.check());
    WARN("a read of the facts takes " << (thread_cpu_ns() - began) / kReads / 1000 << " us of CPU");
  }
  const Qemu qemu(disk.with_cache("none"));
  CHECK(reasons_of(qemu.check()).empty());
}

TEST_CASE("another process that maps RAM or holds its descriptor is found") {
  const Qemu qemu({});
  CHECK(reasons_of(qemu.check()).empty());
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const bool maps = GENERATE(true, false);
  const pid_t other = ::fork();
  if (other == 0) {
    const std::string path =
        "/proc/" + std::to_string(qemu.pid()) + "/fd/" + std::to_string(qemu.ram_descriptor());
    const int fd = ::open(path.c_str(), O_RDWR);
    if (maps) {
      if (::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 8192) == MAP_FAILED) ::_exit(1);
      ::close(fd);
    }
    (void)!::write(ready[1], "x", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  REQUIRE(::read(ready[0], &byte, 1) == 1);
  const std::uint64_t began = thread_cpu_ns();
  const OtherUses others = others_of(qemu);
  WARN("a pass over " << others.processes << " processes takes " << (thread_cpu_ns() - began) / 1000
                      << " us of CPU");
  VmToCheck check = qemu.check();
  check.others = &others;
  CHECK(reasons_of(check) == Names{maps ? "other_mapper" : "ram_fd_elsewhere"});
  CHECK(facts_reader.read(check).must_unfold());
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  CHECK(others_of(qemu).uses.empty());
}

TEST_CASE("locked RAM is told") {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (::geteuid() != 0 && limit.rlim_cur < (1u << 30)) {
    WARN("skipped: may not lock memory");
    return;
  }
  const Qemu qemu({"-overcommit", "mem-lock=on"});
  CHECK(reasons_of(qemu.check()) == Names{"locked_memory"});
  CHECK(facts_reader.read(qemu.check()).must_unfold());
}

TEST_CASE("an incoming migration and a guest that has ended") {
  Qemu qemu({"-incoming", "defer"});
  CHECK(reasons_of(qemu.check()) == Names{"incoming_migration"});
  CHECK(procfs.limited_cgroups(qemu.pid()));
  qemu.end();
  CHECK(facts_reader.read(qemu.check()).gone);
  CHECK(procfs.limited_cgroups(qemu.pid()).error().code == ESRCH);
}
