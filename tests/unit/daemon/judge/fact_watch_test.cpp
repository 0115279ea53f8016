// SPDX-License-Identifier: GPL-2.0-or-later
// Looks at the facts of a VM, in a tree that stands for /proc: one that is held up takes one thread
// and loses no request; and the log says why a VM is only observed.
#include "daemon/judge/fact_watch.hpp"

#include <unistd.h>
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <string>
#include <utility>

#include "base/clock.hpp"
#include "daemon/threads/apart.hpp"
#include "guest/fake_vm.hpp"
#include "patience.hpp"
#include "sys/memory.hpp"
#include "sys/thread.hpp"
#include "unit/logged.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using guest::ReasonCode;
using test::FakeVm;
using test::Logged;
using test::soon;

namespace {

constexpr std::uint64_t kPatienceNs = 60'000'000'000;

// No thread is to be had while there is one of these.
struct NoThreads {
  NoThreads() {
    sys::set_thread_injector([](const char*) noexcept { return EAGAIN; });
  }
  ~NoThreads() { sys::set_thread_injector(nullptr); }
};

// A look passes here after it has read the host's settings and the mappings, and before it reads
// the command line. A process that holds its mmap_lock stops a look in the same way.
class Door {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++passed_;
    ++waiting_;
    changed_.wait(lock, [this] { return open_; });
    --waiting_;
  }
  void set(bool open) {
    const std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  int waiting() {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }
  int passed() {
    const std::lock_guard lock(mutex_);
    return passed_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
  int waiting_ = 0;
  int passed_ = 0;
};

// A VM of which every fact is good, and whose gate is open.
struct Watched {
  FakeVm fake;
  Door door;
  VmHandle vm{new AttachedVm};
  VmSet vms;
  std::atomic<bool> stopping{false};
  FactWatch watch{vms, fake.procfs, [](const VmHandle&) {}, [](const VmHandle&) {}, stopping};

  Watched() {
    guest::VmRecord record;
    record.vm = 7;
    record.pid = FakeVm::kPid;
    record.start_time = 555;
    record.blocks = 1;
    record.block[0] = {fake.block.address.value, fake.block.size.value, 0, FakeVm::kDevice,
                       FakeVm::kInode};
    const PageCount pages{fake.block.size.value >> kPageShift};
    guest::Vm::Files files;
    files.rams.push_back(std::move(*sys::make_memfd("ram", ByteCount{0}, sys::Sealed::no)));
    files.words =
        std::move(*sys::make_memfd("words", guest::PageTable::words_size(pages), sys::Sealed::yes));
    files.shared = std::move(
        *sys::make_memfd("shared", guest::PageTable::shared_size(pages), sys::Sealed::yes));
    vm->vm = std::move(*guest::Vm::make(record, std::move(files)));
    vm->ram = {fake.block};
    vm->kept = vm->agent_ready = true;
    {
      const MutexLock lock(vm->facts.mutex);
      vm->facts.capabilities = ~std::uint64_t{0};
    }
    vms.add(vm);
    watch.begin(fake.host, {});
    REQUIRE(opens());
    fake.procfs.after_stat = [this](pid_t, int) { door.pass(); };
  }
  ~Watched() {
    door.set(true);
    CHECK(is_idle());
  }

  // Checks until the gate is open.
  bool opens() {
    return soon([this] {
      watch.check();
      return is_open();
    });
  }
  bool is_open() const { return vm->vm->gate().is_open(); }
  static bool is_idle() {
    return soon([] { return count_apart() == 0; });
  }
  std::vector<guest::Reason> reasons() const {
    const MutexLock lock(vm->facts.mutex);
    return vm->facts.reasons;
  }
  bool has(ReasonCode code) const {
    return std::ranges::count(reasons(), code, &guest::Reason::code) != 0;
  }
  void look() { watch.look_now(vm, kPatienceNs); }
  // The host may give large folios to RAM, or not.
  void set_large_folios(bool possible) const {
    fake.smaps("rd wr sh");
    fake.tree.write("sys/kernel/mm/transparent_hugepage/shmem_enabled",
                    possible ? "[always] never\n" : "always [never]\n");
  }
};

}  // namespace

TEST_CASE("looks that are asked for while one is held up take no thread, and one answers them") {
  Watched w;
  w.look();
  const int of_a_look = w.door.passed();
  REQUIRE(of_a_look > 0);

  w.door.set(false);
  w.watch.look_again(w.vm);
  REQUIRE(soon([&] { return w.door.waiting() == 1; }));
  for (int i = 0; i < 100; ++i) {
    w.watch.look_again(w.vm);
    ::usleep(100);  // a thread that was begun for it would be there
  }
  CHECK(count_apart() == 1);
  // The look that is held up has read this already; the one after it sees it.
  w.set_large_folios(true);
  w.watch.look_again(w.vm);

  w.door.set(true);
  REQUIRE(Watched::is_idle());
  CHECK(w.door.passed() == 3 * of_a_look);
  CHECK(w.has(ReasonCode::large_folios));
  CHECK_FALSE(w.is_open());
}

TEST_CASE("a gate that was closed during a look is opened by the next one") {
  Watched w;
  w.door.set(false);
  w.watch.look_again(w.vm);
  REQUIRE(soon([&] { return w.door.waiting() == 1; }));
  w.vm->vm->gate().close();
  w.door.set(true);
  REQUIRE(Watched::is_idle());
  CHECK_FALSE(w.is_open());
  w.look();
  CHECK(w.is_open());
}

TEST_CASE("a VM is not blamed when the kernel gives no thread, and its facts count for a while") {
  Watched w;
  {
    const NoThreads none;
    w.watch.check();
    CHECK(w.is_open());
    CHECK(w.reasons().empty());
    // As if they had been read long ago.
    {
      const MutexLock lock(w.vm->facts.mutex);
      w.vm->facts.read_ns = 1;
    }
    w.watch.check();
    CHECK_FALSE(w.is_open());
    REQUIRE(w.reasons().size() == 1);
    CHECK(w.reasons()[0].code == ReasonCode::unreadable);
    CHECK(w.reasons()[0].text.find("no thread") != std::string::npos);
  }
  CHECK(w.opens());
  CHECK(w.reasons().empty());
}

TEST_CASE("a look for which there was no thread comes with the next check") {
  Watched w;
  {
    const NoThreads none;
    w.set_large_folios(true);
    w.watch.look_again(w.vm);
    CHECK(w.is_open());
  }
  w.watch.check();
  CHECK(soon([&] { return w.has(ReasonCode::large_folios); }));
  CHECK_FALSE(w.is_open());
}

TEST_CASE("why a VM is only observed is logged once, and that it may be folded again") {
  Watched w;
  w.set_large_folios(true);
  w.look();
  REQUIRE(w.has(ReasonCode::large_folios));
  const std::string text = w.reasons()[0].text;
  {
    // As if it had stood for a while.
    const MutexLock lock(w.vm->facts.mutex);
    ToldReason told;
    (void)told.closed(w.vm->facts.reasons[0], ToldReason::kSettleNs,
                      monotonic_ns() - ToldReason::kSettleNs);
    w.vm->facts.told = told;
  }
  Logged first;
  w.look();
  w.look();
  CHECK(first.end("pid 1000): it is only observed: " + text) == 1);
  w.set_large_folios(false);
  Logged second;
  w.look();
  w.look();
  CHECK(second.end("pid 1000): it may be folded again") == 1);
  CHECK(w.is_open());
}

TEST_CASE("a reason that the log has already gets no second line") {
  Watched w;
  {
    const MutexLock lock(w.vm->facts.mutex);
    w.vm->facts.unfolded_for = "the agent saw an execve";  // bring_back/consumers.cpp logs it
    w.vm->facts.hello_hazards = RF_HAZARD_EXEC;
  }
  Logged log;
  w.look();
  {
    const MutexLock lock(w.vm->facts.mutex);
    CHECK_FALSE(w.vm->facts.told.closed(w.vm->facts.reasons[0], 0, monotonic_ns()));
  }
  CHECK(log.end("it is only observed") == 0);
}
