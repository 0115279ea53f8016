// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/procfs.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <thread>

#include "patience.hpp"
#include "sys/capabilities.hpp"
#include "sys/fake_tree.hpp"
#include "sys/memory.hpp"
#include "sys/procfs_text.hpp"
#include "sys/thread_name.hpp"

using namespace ramfold;
using namespace ramfold::sys;
using ramfold::test::FakeTree;

TEST_CASE("a maps line is taken apart") {
  const auto entry = parse_map_line(
      "7f2cdffff000-7f2ce3fff000 rw-s 00001000 fe:01 1040                       /memfd:a b "
      "(deleted)");
  REQUIRE(entry);
  CHECK(entry->begin.value == 0x7f2cdffff000);
  CHECK(entry->end.value == 0x7f2ce3fff000);
  CHECK(entry->readable);
  CHECK(entry->writable);
  CHECK_FALSE(entry->executable);
  CHECK(entry->shared);
  CHECK(entry->offset == 0x1000);
  CHECK(entry->device == makedev(0xfe, 1));
  CHECK(entry->inode == 1040);
  CHECK(entry->path == "/memfd:a b (deleted)");
}

TEST_CASE("a maps line that is none is refused") {
  for (const char* line :
       {"", "x", "1000-2000", "2000-1000 rw-s 0 0:1 5 /x", "1000-1000 rw-s 0 0:1 5",
        "1000-2000 rw 0 0:1 5", "1000-2000 rw-s 0 01 5", "1000-2000 rw-s z 0:1 5",
        "1000-2000 rw-s 0 0:1 x", "10000000000000000-20000000000000000 rw-s 0 0:1 5",
        "-1000-2000 rw-s 0 0:1 5"}) {
    CHECK_FALSE(parse_map_line(line));
  }
}

TEST_CASE("fdinfo's flags are octal") {
  const auto info = parse_fd_info("pos:\t0\nflags:\t02140002\nmnt_id:\t27\nino:\t10\n");
  REQUIRE(info);
  CHECK((info->flags & O_DIRECT) != 0);
  CHECK((info->flags & O_ACCMODE) == O_RDWR);
  CHECK(info->mount == 27);
  CHECK_FALSE(parse_fd_info("pos:\t0\n"));
  CHECK_FALSE(parse_fd_info("flags:\t9\n"));
}

TEST_CASE("kernel versions are compared by their numbers") {
  const auto version = parse_kernel_version("6.18.44-fc-v669\n");
  REQUIRE(version);
  CHECK(version->text == "6.18.44-fc-v669");
  CHECK(version->at_least(6, 7));
  CHECK(version->at_least(6, 18));
  CHECK(version->at_least(5, 99));
  CHECK_FALSE(version->at_least(6, 19));
  CHECK_FALSE(version->at_least(7, 0));
  CHECK(parse_kernel_version("6.7-rc1")->at_least(6, 7));
  CHECK_FALSE(parse_kernel_version("linux"));
  CHECK_FALSE(parse_kernel_version("6"));
}

TEST_CASE("our own process reads back") {
  const Procfs procfs;
  const pid_t self = ::getpid();
  auto memory = make_memfd("procfs-test", ByteCount{64 * 1024}, Sealed::no);
  REQUIRE(memory);
  auto mapping = Mapping::shared(*memory, ByteCount{64 * 1024});
  REQUIRE(mapping);
  struct stat st{};
  REQUIRE(::fstat(memory->get(), &st) == 0);

  SECTION("mappings") {
    std::size_t found = 0;
    REQUIRE(procfs.mappings(self, [&](const MapEntry& entry) {
      if (entry.device != st.st_dev || entry.inode != st.st_ino) return true;
      ++found;
      CHECK(entry.begin.value == reinterpret_cast<std::uintptr_t>(mapping->data()));
      CHECK(entry.shared);
      CHECK(entry.path == "/memfd:procfs-test (deleted)");
      return true;
    }) == Seen::all);
    CHECK(found == 1);
  }
  SECTION("smaps") {
    std::string flags;
    REQUIRE(procfs.smaps(self, [&](const MapEntry& entry, std::string_view vm_flags) {
      if (entry.inode == st.st_ino && entry.device == st.st_dev) flags = vm_flags;
      return true;
    }) == Seen::all);
    CHECK(flags.find(" sh ") != std::string::npos);
  }
  SECTION("descriptors") {
    bool found = false;
    REQUIRE(procfs.descriptors(self, [&](const FdEntry& entry) {
      if (entry.number == memory->get()) {
        found = true;
        CHECK(entry.link == "/memfd:procfs-test (deleted)");
      }
      return true;
    }) == Seen::all);
    CHECK(found);
    const auto info = procfs.fd_info(self, memory->get());
    REQUIRE(info);
    CHECK((info->flags & O_ACCMODE) == O_RDWR);
    const auto stat = procfs.fd_stat(self, memory->get());
    REQUIRE(stat);
    CHECK(stat->inode == st.st_ino);
    CHECK(stat->device == st.st_dev);
    CHECK(S_ISREG(stat->mode));
    CHECK(procfs.fd_filesystem(self, memory->get()).value() == 0x01021994);  // tmpfs
    CHECK(procfs.fd_info(self, 99999).error().code == ESRCH);
  }
  SECTION("status, stat, names") {
    const auto status = procfs.status(self);
    REQUIRE(status);
    CHECK(status->uid == ::getuid());
    CHECK(status->threads >= 1);
    CHECK(status->has_memory);
    CHECK(status->page_tables.value > 0);
    CHECK(procfs.start_ticks(self).value() > 0);
    CHECK_FALSE(procfs.command(self).value().empty());
    CHECK_FALSE(procfs.arguments(self).value().empty());
    std::size_t threads = 0;
    CHECK(procfs.thread_ids(self, [&](pid_t) { return ++threads > 0; }) == Seen::all);
    CHECK(threads == status->threads);
    CHECK_FALSE(procfs.mounts(self).value().empty());
    CHECK(procfs.limited_cgroups(self));
  }
  SECTION("the host") {
    CHECK(procfs.memory_info().value().total.value > 0);
    CHECK(procfs.kernel_version());
    CHECK(procfs.shmem_huge());
    CHECK(procfs.device_name(makedev(1, 3)).value() == "null");
    bool found = false;
    CHECK(procfs.processes([&](pid_t pid) { return !(found = found || pid == self); }) ==
          Seen::all);
    CHECK(found);
  }
}

TEST_CASE("a long fdinfo is read to its flags only") {
  const Procfs procfs;
  const Fd poll(::epoll_create1(EPOLL_CLOEXEC));
  std::vector<Fd> watched;
  for (int i = 0; i < 800; ++i) {
    epoll_event event{};
    watched.emplace_back(::eventfd(0, EFD_CLOEXEC));
    REQUIRE(::epoll_ctl(poll.get(), EPOLL_CTL_ADD, watched.back().get(), &event) == 0);
  }
  CHECK(procfs.fd_info(::getpid(), poll.get()));
}

TEST_CASE("a process that has ended is gone, waited for or not") {
  const Procfs procfs;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  CHECK(procfs.start_ticks(child).error().code == ESRCH);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  const auto never = [](const auto&...) { return true; };
  CHECK(procfs.start_ticks(child).error().code == ESRCH);
  CHECK(procfs.mappings(child, never) == Seen::gone);
  CHECK(procfs.smaps(child, never) == Seen::gone);
  CHECK(procfs.descriptors(child, never) == Seen::gone);
  CHECK(procfs.status(child).error().code == ESRCH);
  CHECK(procfs.arguments(child).error().code == ESRCH);
  CHECK(procfs.mounts(child).error().code == ESRCH);
  CHECK(procfs.limited_cgroups(child).error().code == ESRCH);
}

TEST_CASE("a command with parentheses and blanks does not shift the start time") {
  const FakeTree tree;
  const Procfs procfs(tree.root());
  std::string stat = "7 (a) R 1 (b) S";
  for (int field = 4; field < 22; ++field) stat += " 1";
  tree.write("proc/7/stat", stat + " 4711 0 0");
  CHECK(procfs.start_ticks(7).value() == 4711);
}

TEST_CASE("threads that make no further call are told from those that do") {
  const auto task = [](const std::string& state, const std::string& flags,
                       const std::string& pending) {
    return parse_task("12 (rf7-a) b)) " + state + " 1 1 1 0 -1 " + flags + " 0 0 0",
                      "Name:\tx\nSigPnd:\t" + pending + "\nShdPnd:\t0000000000000100\n");
  };
  const auto runs = task("D", "4194304", "0000000000000000");
  REQUIRE(runs.has_value());
  CHECK(runs->name == "rf7-a) b)");
  CHECK_FALSE(runs->dying);  // a signal to the process is given to each thread before it counts
  const auto killed = task("D", "4194304", "0000000000000100");
  CHECK((killed->dying && !killed->ended));
  CHECK_FALSE(task("D", "4194304", "0000000000000080")->dying);
  CHECK(task("D", "4194308", "0000000000000000")->ended);  // PF_EXITING
  CHECK(task("Z", "4194304", "0000000000000000")->ended);
  CHECK_FALSE(parse_task("12 rf7 S 1", "SigPnd:\t0\n").has_value());
  CHECK_FALSE(parse_task("12 (rf7) S 1 1 1 0 -1 0", "ShdPnd:\t0\n").has_value());
}

TEST_CASE("the threads of a process whose first thread has ended are listed") {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::thread([out = ends[1]] {
      name_this_thread(VmId{4'294'967'295}, "fold");
      (void)!::write(out, "x", 1);
      for (;;) ::pause();
    }).detach();
    ::syscall(SYS_exit, 0);  // this thread alone
  }
  char byte;
  REQUIRE(::read(ends[0], &byte, 1) == 1);
  const Procfs procfs;
  CHECK(test::soon([&] { return !procfs.start_ticks(child); }));
  std::vector<TaskState> tasks;
  CHECK(procfs.tasks(child, [&](const TaskState& t) {
    tasks.push_back(t);
    return true;
  }) == Seen::all);
  ::kill(child, SIGKILL);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  ::close(ends[0]);
  ::close(ends[1]);
  // A sanitizer may have a thread of its own.
  REQUIRE(tasks.size() >= 2);
  CHECK((tasks[0].ended && tasks[0].dying));
  const auto at_vm = std::ranges::find_if(
      tasks, [](const TaskState& t) { return vm_of_thread(t.name).has_value(); });
  REQUIRE(at_vm != tasks.end());
  CHECK_FALSE(at_vm->dying);
  CHECK(vm_of_thread(at_vm->name) == VmId{4'294'967'295});
}

TEST_CASE("only a thread at a VM has its number in its name") {
  CHECK(vm_of_thread("rf0-fault") == VmId{0});
  for (const char* name :
       {"rf-fold", "rf12", "rf-12", "rfx-fold", "ramfoldd", "", "rf99999999999-f"})
    CHECK_FALSE(vm_of_thread(name).has_value());
}

TEST_CASE("more than the bound is too many, and nothing is visited beyond it") {
  const FakeTree tree;
  const Procfs procfs(tree.root());
  SECTION("mappings") {
    std::string maps;
    for (std::size_t i = 0; i <= kMappingsMax; ++i) maps += "1000-2000 rw-p 0 00:00 0\n";
    tree.write("proc/7/maps", maps);
    std::size_t visited = 0;
    CHECK(procfs.mappings(7, [&](const MapEntry&) { return ++visited > 0; }) == Seen::too_many);
    CHECK(visited == kMappingsMax);
  }
  SECTION("a command line") {
    tree.write("proc/7/cmdline", std::string(kCmdlineMax.value + 1, 'x'));
    CHECK(procfs.arguments(7).error().code == E2BIG);
  }
  SECTION("a status") {
    tree.write("proc/7/status", std::string(kSmallFileMax.value + 1, 'x'));
    CHECK(procfs.status(7).error().code == E2BIG);
  }
}

TEST_CASE("lines longer than the buffer are cut, the next one is whole") {
  const FakeTree tree;
  tree.write("a",
             std::string(100'000, 'x') + "\nsecond\n" + std::string(32 * 1024, 'y') + "\nlast");
  auto lines = text::LineReader::open(tree.root() + "/a");
  REQUIRE(lines);
  CHECK(lines->next().value().value().starts_with("xxx"));
  CHECK(lines->next().value() == "second");
  CHECK(lines->next().value().value().starts_with("yyy"));
  CHECK(lines->next().value() == "last");
  CHECK_FALSE(lines->next().value());
}

TEST_CASE("each memory cgroup above the process that has a limit has its headroom") {
  const FakeTree tree;
  const Procfs procfs(tree.root());
  tree.write("proc/7/cgroup", "9:name=systemd:/x\n4:memory:/host/vm\n0::/a/b\n");
  const std::string v1 =
      "35 31 0:32 /host /cg/memory rw,relatime - cgroup cgroup rw,memory\n"
      "40 31 0:37 / /cg/systemd rw - cgroup cgroup rw,name=systemd\n";
  const std::string v2 = "41 31 0:38 / /cg/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";

  SECTION("no limit anywhere") {
    tree.write("proc/self/mountinfo", v2);
    tree.write("cg/unified/a/b/memory.max", "max\n");
    tree.write("cg/unified/a/b/memory.current", "5\n");
    CHECK(procfs.limited_cgroups(7).value().empty());
  }
  SECTION("version 2: the innermost first; droppable file cache counts as free") {
    tree.write("proc/self/mountinfo", v2);
    tree.write("cg/unified/a/b/memory.max", "1000000\n");
    tree.write("cg/unified/a/b/memory.current", "100000\n");
    tree.write("cg/unified/a/memory.max", "500000\n");
    tree.write("cg/unified/a/memory.current", "450000\n");
    tree.write("cg/unified/a/memory.stat", "anon 1\ninactive_file 30000\nactive_file 7\n");
    const auto limited = procfs.limited_cgroups(7).value();
    REQUIRE(limited.size() == 2);
    CHECK(limited[0].path.ends_with("/cg/unified/a/b"));
    CHECK(limited[0].headroom.value == 900'000);
    CHECK(limited[1].path.ends_with("/cg/unified/a"));
    CHECK(limited[1].headroom.value == 80'000);
  }
  SECTION("version 1: below the mounted root") {
    tree.write("proc/self/mountinfo", v1);
    tree.write("cg/memory/vm/memory.limit_in_bytes", "4096\n");
    tree.write("cg/memory/vm/memory.usage_in_bytes", "5000\n");
    tree.write("cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
    const auto limited = procfs.limited_cgroups(7).value();
    REQUIRE(limited.size() == 1);
    CHECK(limited[0].path.ends_with("/cg/memory/vm"));
    CHECK(limited[0].headroom.value == 0);
  }
  SECTION("outside our namespace it is not known") {
    tree.write("proc/self/mountinfo", v2);
    tree.write("proc/7/cgroup", "0::/../other\n");
    CHECK(procfs.limited_cgroups(7).error().code == EXDEV);
  }
}

TEST_CASE("large folios of shared memory are possible when any size may have them") {
  const FakeTree tree;
  const Procfs procfs(tree.root());
  const std::string base = "sys/kernel/mm/transparent_hugepage/";
  CHECK_FALSE(procfs.shmem_huge().value().possible);  // no such thing in the kernel
  const auto overall = [&](const char* text) { tree.write(base + "shmem_enabled", text); };
  const auto size = [&](const char* text) {
    tree.write(base + "hugepages-64kB/shmem_enabled", text);
    tree.write(base + "hugepages-2048kB/shmem_enabled",
               "always [inherit] within_size advise never\n");
  };
  overall("always within_size advise [never] deny force\n");
  CHECK_FALSE(procfs.shmem_huge().value().possible);
  overall("always within_size [advise] never deny force\n");
  CHECK(procfs.shmem_huge().value().possible);
  size("always inherit within_size advise [never]\n");
  CHECK(procfs.shmem_huge().value().possible);  // 2048kB inherits
  overall("always within_size advise [never] deny force\n");
  CHECK_FALSE(procfs.shmem_huge().value().possible);
  size("[always] inherit within_size advise never\n");
  CHECK(procfs.shmem_huge().value().possible);
  CHECK(procfs.shmem_huge().value().text ==
        "shmem_enabled=never hugepages-2048kB=inherit hugepages-64kB=always");
  overall("always within_size advise never [deny] force\n");
  CHECK_FALSE(procfs.shmem_huge().value().possible);
  overall("always within_size advise never deny [force]\n");
  CHECK(procfs.shmem_huge().value().forced);
}

TEST_CASE("memory and pressure") {
  const FakeTree tree;
  const Procfs procfs(tree.root());
  tree.write("proc/meminfo",
             "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable: 500 kB\nShmem: 7 kB\n");
  CHECK(procfs.memory_info().value().available.value == 500 * 1024);
  tree.write("proc/pressure/memory",
             "some avg10=1.53 avg60=0.20 avg300=0.00 total=1234\nfull avg10=0.91 avg60=0 avg300=0 "
             "total=9\n");
  const Pressure pressure = procfs.memory_pressure().value();
  CHECK(pressure.some_10s_permille == 15);
  CHECK(pressure.some_60s_permille == 2);
  CHECK(pressure.full_10s_permille == 9);
  CHECK(pressure.some_total_us == 1234);
}

TEST_CASE("S5: the capabilities of a process are those that any of its threads has or may get") {
  const FakeTree tree;
  const auto thread = [&](int id, const std::string& inherited, const std::string& permitted,
                          const std::string& ambient) {
    tree.write("proc/7/task/" + std::to_string(id) + "/status",
               "Name:\tqemu\nCapInh:\t" + inherited + "\nCapPrm:\t" + permitted +
                   "\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\nCapAmb:\t" + ambient +
                   "\n");
  };
  const auto has = [&] { return capabilities_of(7, tree.root()); };
  const std::string none(16, '0');
  CHECK(has().error().code == ESRCH);
  thread(7, none, none, none);
  CHECK(has().value() == 0);
  thread(8, none, "0000000000000002", none);
  CHECK(has().value() == 2);
  thread(9, "0000000000000008", none, "0000010000000000");
  CHECK(has().value() == 0x100'0000'000a);
  thread(9, "x", none, none);
  CHECK(has().error().code == EIO);
  tree.write("proc/7/task/9/status", "CapInh:\t" + none + "\nCapPrm:\t" + none + "\n");
  CHECK(has().error().code == EIO);
  tree.remove("proc/7/task/9/status");  // the thread has ended
  CHECK(has().value() == 2);
  CHECK(capabilities_of(::getpid()).has_value());
}
