// SPDX-License-Identifier: GPL-2.0-or-later
// Passes of several real VMs at the same time (src/daemon/work/scan_workers). The test counts
// passes and chunks, never time.
#include "daemon/work/scan_workers.hpp"

#include <fcntl.h>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "daemon/report/accounting.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "kernel/silent_agents.hpp"
#include "patience.hpp"
#include "store/contents.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using guest::Tag;

namespace {

constexpr std::uint64_t kChunk = guest::kChunkPages.value;

struct Guest {
  std::unique_ptr<test::GuestProcess> process;
  VmHandle vm;

  Guest(std::uint32_t id, uid_t owner, PageCount pages)
      : process(test::GuestProcess::start(pages)), vm(std::make_shared<AttachedVm>()) {
    guest::VmRecord record;
    guest::Vm::Files files = process->files_for(id, record);
    record.uid = owner;
    auto made = guest::Vm::make(record, std::move(files));
    REQUIRE(made.has_value());
    vm->vm = std::move(*made);
    vm->cursor.next = scan::chunk_count(*vm->vm);
    vm->kept = true;
    vm->agent_ready = true;
    (void)vm->vm->gate().open(0, vm->vm->gate().epoch());
  }
  std::uint64_t passes() const {
    const std::lock_guard lock(vm->cursor.mutex);
    return vm->cursor.passes;
  }
  std::uint64_t held() const {
    const std::lock_guard lock(vm->cursor.mutex);
    return vm->cursor.busy_last;
  }
  std::uint64_t chunks() const {
    const std::lock_guard lock(vm->cursor.mutex);
    return vm->cursor.chunks;
  }
};

// Threads of this process that scan.
std::size_t scan_threads() {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    if (name.ends_with("-fold")) ++count;
  }
  return count;
}

// An agent that forgets, and a guest that then touches its hot pages at once.
class Forgetting final : public test::SilentAgents, public guest::AgentPort {
 public:
  Forgetting(test::GuestProcess& process, std::uint64_t hot) : process_(process), hot_(hot) {}
  std::shared_ptr<guest::AgentPort> port(const AttachedVm&) override {
    return {std::shared_ptr<void>(), static_cast<guest::AgentPort*>(this)};
  }
  bool is_open() override { return true; }
  std::expected<guest::AgentToken, guest::NotSent> send(guest::AgentAct,
                                                        std::span<const PageRun> runs,
                                                        std::span<const ByteCount>) override {
    const std::lock_guard lock(mutex_);
    CHECK(runs.size() <= kRunsMax);
    for (const PageRun run : runs) {
      process_.forget(run.first, static_cast<std::uint32_t>(run.count.value));
      for (PageIndex p = run.first; p < run.end() && p.value < hot_; ++p.value)
        (void)process_.load(p);
    }
    return guest::AgentToken{1};
  }
  std::optional<guest::AgentAnswer> take(guest::AgentToken, std::chrono::milliseconds) override {
    return guest::AgentAnswer::done;
  }
  void give_up(guest::AgentToken) override {}
  // The guest reads its hot pages, and goes on to.
  void read(std::uint64_t hot) {
    const std::lock_guard lock(mutex_);
    hot_ = hot;
    for (std::uint64_t p = 0; p < hot; ++p) (void)process_.load(PageIndex{p});
  }

 private:
  std::mutex mutex_;
  test::GuestProcess& process_;
  std::uint64_t hot_;
};

// Pages of a guest that lie in a pipe, which holds them as a device would.
class PagesInPipe {
 public:
  PagesInPipe(const Guest& guest, PageIndex first, std::uint64_t count) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    out_ = sys::Fd(ends[0]);
    in_ = sys::Fd(ends[1]);
    auto at = static_cast<loff_t>(first.value << kPageShift);
    REQUIRE(::splice(guest.process->ram(), &at, in_.get(), nullptr, count << kPageShift, 0) ==
            static_cast<ssize_t>(count << kPageShift));
  }

 private:
  sys::Fd out_;
  sys::Fd in_;
};

enum class May { observe, fold };

struct Scanning {
  VmSet vms;
  std::unique_ptr<store::Contents> contents;
  HostState host;
  policy::Config config;
  std::unique_ptr<ScanWorkers> workers;

  explicit Scanning(double cpu) {
    auto made = store::Contents::create(ByteCount{1u << 20});
    REQUIRE(made.has_value());
    contents = std::move(*made);
    allow(May::observe);
    config.fold.pass_seconds = 0.1;
    config.scan.cpu = cpu;
    workers = std::make_unique<ScanWorkers>(vms, *contents, host, config);
    workers->fold_with(test::pin_test());
  }
  void allow(May may) {
    HostVerdict verdict;
    verdict.may_observe = true;
    verdict.may_fold = may == May::fold;
    verdict.memory = policy::Memory::is_short;
    host.publish(std::move(verdict));
  }
  void start() {
    workers->set(policy::work_targets(config));
    workers->start();
  }
  void add(const Guest& guest) {
    guest.vm->group = *contents->group(std::to_string(guest.vm->vm->id().value));
    guest.vm->targets.store(policy::vm_targets(config, {}));
    vms.add(guest.vm);
  }
};

}  // namespace

TEST_CASE("of a VM with 8 TiB only the chunks that hold something are looked at") {
  constexpr std::uint64_t kPages = (std::uint64_t{8} << 40) >> kPageShift;
  Guest huge(1, 1000, PageCount{kPages});
  Guest small(2, 1001, PageCount{4 * kChunk});
  for (const std::uint64_t page : {std::uint64_t{5}, kPages / 2, kPages - 1}) {
    huge.process->store(PageIndex{page}, page);
  }
  for (std::uint64_t page = 0; page < 4 * kChunk; page += kChunk / 2) {
    small.process->store(PageIndex{page}, page + 1);
  }
  Scanning scanning(1);
  scanning.add(huge);
  scanning.add(small);
  scanning.start();
  REQUIRE(test::soon([&] { return small.passes() >= 3 && huge.passes() >= 3; }));
  scanning.workers->stop();
  // What holds a page, and behind that one chunk that does not; a pass may be under way.
  CHECK(huge.chunks() <= (huge.passes() + 1) * 6);
  CHECK(huge.vm->cursor.met_last.present == 3);
  CHECK(small.vm->cursor.met_last.present == 8);
}

TEST_CASE("running workers take up other targets, and their number follows scan.threads") {
  Guest guest(1, 1000, PageCount{4 * kChunk});
  guest.process->store(PageIndex{3}, 1);
  Scanning scanning(1);
  scanning.add(guest);
  scanning.start();
  REQUIRE(test::soon([&] { return guest.passes() >= 2; }));
  scanning.config.fold.pass_seconds = 3600;
  scanning.workers->set(policy::work_targets(scanning.config));
  // A pass may be under way.
  const std::uint64_t before = guest.passes();
  sleep_ns(500'000'000);
  CHECK(guest.passes() <= before + 1);
  scanning.config.fold.pass_seconds = 0.1;
  scanning.config.scan.threads = 3;
  scanning.workers->set(policy::work_targets(scanning.config));
  scanning.workers->tend();
  CHECK(test::soon([] { return scan_threads() == 3; }));
  REQUIRE(test::soon([&] { return guest.passes() >= before + 3; }));
  scanning.config.scan.threads = 1;
  scanning.workers->set(policy::work_targets(scanning.config));
  scanning.workers->tend();
  CHECK(test::soon([] { return scan_threads() == 1; }));
  const std::uint64_t passes = guest.passes();
  CHECK(test::soon([&] { return guest.passes() >= passes + 2; }));
  scanning.workers->tend();
  CHECK(scan_threads() == 1);
  scanning.workers->stop();
}

TEST_CASE("holes are passed over across blocks that lie in their file in another order") {
  constexpr std::uint64_t kPages = 4 * kChunk;
  constexpr std::uint64_t kFirst = 1500;  // pages of the first block, which are the file's last
  const auto process = test::GuestProcess::start(PageCount{kPages});
  guest::VmRecord record;
  guest::Vm::Files files = process->files_for(1, record);
  const rf_block whole = record.block[0];
  record.blocks = 2;
  record.block[0].size = kFirst * kPageSize;
  record.block[0].offset = (kPages - kFirst) * kPageSize;
  record.block[1] = whole;
  record.block[1].address += kFirst * kPageSize;
  record.block[1].size = (kPages - kFirst) * kPageSize;
  files.rams.push_back(std::move(*files.rams[0].duplicate()));
  const auto vm = std::move(*guest::Vm::make(record, std::move(files)));
  const std::size_t chunks = scan::chunk_count(*vm);
  REQUIRE(chunks == 4);
  CHECK(scan::next_backed_chunk(*vm, 0) == chunks);
  for (const std::uint64_t in_file : {0ul, 100ul, 1100ul, 2595ul, 2596ul, 3700ul, 4095ul}) {
    INFO(in_file);
    process->store(PageIndex{in_file}, 1);
    const std::uint64_t page = (in_file + kFirst) % kPages;
    for (std::size_t from = 0; from < chunks; ++from) {
      const std::size_t wanted = from <= page / kChunk ? page / kChunk : chunks;
      CHECK(scan::next_backed_chunk(*vm, from) == wanted);
    }
    process->discard(PageIndex{in_file});
  }
}

TEST_CASE("a VM completes passes beside another's that takes long") {
  constexpr std::uint64_t kChunks = 8192;
  Guest large(1, 1000, PageCount{kChunks * kChunk});
  Guest small(2, 1001, PageCount{4 * kChunk});
  for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    large.process->store(PageIndex{chunk * kChunk}, chunk + 1);
  }
  small.process->store(PageIndex{0}, 1);
  Scanning scanning(0.1);
  scanning.add(large);
  scanning.add(small);
  scanning.start();
  REQUIRE(test::soon([&] { return large.passes() >= 1; }));
  const std::uint64_t beside = small.passes();
  scanning.workers->stop();
  CHECK(beside >= 3);
}

TEST_CASE("a pass gives back the words of RAM that a guest gave back") {
  constexpr std::uint64_t kChunks = 40;
  Guest guest(1, 1000, PageCount{kChunks * kChunk});
  const auto each = [&](auto what) {
    for (std::uint64_t page = 0; page < kChunks * kChunk; page += kChunk / 2) what(PageIndex{page});
  };
  each([&](PageIndex p) { guest.process->store(p, p.value + 1); });
  const auto words = [&] { return backed(guest.vm->vm->files().words).value; };
  Scanning scanning(1);
  scanning.add(guest);
  scanning.start();
  REQUIRE(test::soon([&] { return guest.passes() >= 1; }));
  CHECK(words() == 2 * kChunks * kPageSize);
  each([&](PageIndex p) {
    if (p.value != 0) guest.process->discard(p);
  });
  REQUIRE(test::soon([&] { return words() <= 2 * kPageSize; }));
  scanning.workers->stop();
  CHECK(words() == 2 * kPageSize);
}

TEST_CASE("of a VM beyond its quota only the pages of zeros leave") {
  Guest guest(1, 1000, PageCount{2 * kChunk});
  guest.process->store(PageIndex{0}, 0);
  guest.process->store(PageIndex{1}, 5);
  // A table of which the first pages are in memory, and more could be.
  guest.process->store(PageIndex{2 * kChunk - 1}, 7);
  Scanning scanning(1);
  scanning.allow(May::fold);
  scanning.config.fold.passes = 1;
  scanning.add(guest);
  // Beyond its owner's share of page tables not even those, and no page is looked at.
  guest.vm->keeps.too_much = TooMuch::of_tables;
  const guest::PageTable& table = guest.vm->vm->table();
  const ByteCount owners = table.owners_in_memory();
  const ByteCount words = backed(guest.vm->vm->files().words);
  scanning.start();
  const guest::VmCounters& counters = guest.vm->vm->counters();
  REQUIRE(test::soon([&] { return guest.passes() >= 4; }));
  CHECK(counters.folded_zero.get() == 0);
  CHECK(counters.folded_content.get() == 0);
  CHECK(counters.observed.get() == 0);
  CHECK(table.owners_in_memory() == owners);
  CHECK(backed(guest.vm->vm->files().words) == words);
  guest.vm->keeps.too_much = TooMuch::of_vm;
  const std::uint64_t passes = guest.passes();
  REQUIRE(test::soon_quiet(
      [&] { return counters.folded_zero.get() == 1 && guest.passes() >= passes + 4; }));
  CHECK(counters.folded_content.get() == 0);
  guest.vm->keeps.too_much = TooMuch::nothing;
  CHECK(test::soon_quiet([&] { return counters.folded_content.get() == 2; }));
  scanning.workers->stop();
}

TEST_CASE("pages that something held in the last pass are told, and the others are folded") {
  constexpr std::uint64_t kHeld = 5;
  Guest guest(1, 1000, PageCount{kChunk});
  for (std::uint64_t page = 0; page < 64; ++page) guest.process->store(PageIndex{page}, page + 1);
  std::optional<PagesInPipe> pipe(std::in_place, guest, PageIndex{0}, kHeld);
  Scanning scanning(1);
  scanning.allow(May::fold);
  scanning.add(guest);
  scanning.start();
  const guest::VmCounters& counters = guest.vm->vm->counters();
  CHECK(test::soon_quiet(
      [&] { return guest.held() == kHeld && counters.folded_content.get() == 64 - kHeld; }));
  pipe.reset();
  CHECK(test::soon_quiet([&] { return guest.held() == 0 && counters.folded_content.get() == 64; }));
  scanning.workers->stop();
}

TEST_CASE("of a VM that a device keeps unfolded the held pages are told, and nothing is folded") {
  constexpr std::uint64_t kHeld = 5;
  constexpr std::uint64_t kTouched = 64;
  Guest guest(1, 1000, PageCount{4 * kChunk});
  const auto touch = [&](std::uint64_t first) {
    for (std::uint64_t page = first; page < first + kTouched; ++page)
      guest.process->store(PageIndex{page}, page + 1);
  };
  touch(0);
  touch(3 * kChunk);  // behind holes
  std::optional<PagesInPipe> pipe(std::in_place, guest, PageIndex{3 * kChunk}, kHeld);
  // As a look leaves it that has found the device.
  guest.vm->vm->gate().close();
  guest.vm->consumer_lasts = true;
  guest.vm->consumer_found = true;
  Scanning scanning(1);
  scanning.allow(May::fold);
  scanning.config.fold.passes = 1;
  scanning.add(guest);
  SECTION("the figure follows what the device does") {
    scanning.start();
    CHECK(test::soon_quiet([&] { return guest.held() == kHeld; }));
    pipe.reset();
    CHECK(test::soon_quiet([&] { return guest.held() == 0; }));
    scanning.workers->stop();
    CHECK(guest.vm->cursor.met_last.present == 2 * kTouched);
    const guest::VmCounters& counters = guest.vm->vm->counters();
    CHECK(counters.observed.get() == 0);
    CHECK(counters.folded_content.get() == 0);
    CHECK(counters.not_quiet_busy.get() == 0);
    CHECK(counters.errors.get() == 0);
    for (const std::uint64_t page : {std::uint64_t{0}, 3 * kChunk})
      CHECK(guest.vm->vm->table().load(PageIndex{page})->tag() == Tag::none);
    for (std::size_t chunk = 0; chunk < 4; ++chunk) CHECK_FALSE(guest.vm->vm->is_registered(chunk));
  }
  SECTION("only where it is the pages of a VM that stays unfolded") {
    SECTION("it is being unfolded") { guest.vm->unfolding = true; }
    SECTION("it was detached") { guest.vm->detached = true; }
    SECTION("a userfaultfd of QEMU's own, which will be closed") {
      guest.vm->consumer_lasts = false;
    }
    SECTION("its gate is closed for another reason") { guest.vm->consumer_found = false; }
    Guest other(2, 1001, PageCount{kChunk});
    other.process->store(PageIndex{0}, 1);
    scanning.add(other);
    scanning.start();
    REQUIRE(test::soon([&] { return other.passes() >= 3; }));
    scanning.workers->stop();
    CHECK(guest.passes() == 0);
    CHECK(guest.held() == 0);
  }
}

namespace {

// 1 MiB of which some pages are hot, and a service for its faults.
struct Clocked {
  static constexpr std::uint64_t kPages = 256;

  explicit Clocked(unsigned passes, std::uint64_t hot = 0)
      : guest(1, 1000, PageCount{kPages}), agent(*guest.process, hot), scanning(1) {
    for (std::uint64_t p = 0; p < kPages; ++p) guest.process->store(PageIndex{p}, p + 1);
    scanning.config.scan.referenced = policy::Referenced::forget;
    scanning.config.fold.passes = passes;
    scanning.allow(May::fold);
    scanning.add(guest);
    REQUIRE(pool->begin().has_value());
    auto started =
        fault::Server::start(pool, *guest.vm->vm, *scanning.contents, guest.vm->group, 1);
    REQUIRE(started.has_value());
    guest.vm->faults = std::move(*started);
    scanning.workers->ask_through(agent, sources);
    scanning.start();
  }
  ~Clocked() {
    scanning.workers->stop();
    guest.vm->faults.reset();  // before the store
  }
  Tag tag(std::uint64_t p) const { return guest.vm->vm->table().load(PageIndex{p})->tag(); }
  bool are_folded(std::uint64_t first, std::uint64_t end) const {
    for (std::uint64_t p = first; p < end; ++p) {
      if (tag(p) != Tag::folded) return false;
    }
    return true;
  }
  void wait_for_passes(std::uint64_t passes) {
    const std::uint64_t end = guest.passes() + passes;
    REQUIRE(test::soon([&] { return guest.passes() >= end; }));
  }
  guest::VmCounters& counters() const { return guest.vm->vm->counters(); }

  std::shared_ptr<fault::Pool> pool = std::move(*fault::Pool::make());
  Guest guest;
  Forgetting agent;
  Sources sources{{}};
  Scanning scanning;
};

}  // namespace

TEST_CASE("pages that the guest only reads stay, and those that it leaves alone are folded") {
  constexpr std::uint64_t kHot = 40;
  Clocked clocked(4, kHot);
  REQUIRE(test::soon_quiet([&] { return clocked.are_folded(kHot, Clocked::kPages); }));
  clocked.wait_for_passes(8);
  for (std::uint64_t p = 0; p < kHot; ++p) CHECK(clocked.tag(p) == Tag::observed);
  CHECK(clocked.counters().faults_content.get() == 0);
  CHECK(clocked.counters().retouched.get() >= kHot);
  CHECK(clocked.counters().errors.get() == 0);
}

TEST_CASE("a page that came back is asked about before it is folded again") {
  constexpr std::uint64_t kHot = 20;
  Clocked clocked(1);
  REQUIRE(test::soon_quiet([&] { return clocked.are_folded(0, Clocked::kPages); }));
  SECTION("the guest goes on to read it: it stays") {
    clocked.agent.read(kHot);
    clocked.wait_for_passes(1);  // a fault is counted after its thread was woken
    const std::uint64_t faults = clocked.counters().faults_content.get();
    clocked.wait_for_passes(20);
    for (std::uint64_t p = 0; p < kHot; ++p) CHECK(clocked.tag(p) == Tag::clean);
    // Had one of them left, the guest would have brought it back.
    CHECK(clocked.counters().faults_content.get() == faults);
  }
  SECTION("the guest leaves it alone: it is folded again") {
    clocked.agent.read(kHot);
    clocked.agent.read(0);
    REQUIRE(test::soon_quiet([&] { return clocked.are_folded(0, Clocked::kPages); }));
    CHECK(clocked.counters().folds_again.get() >= kHot);  // and neighbours that came along
  }
  CHECK(clocked.counters().errors.get() == 0);
}

namespace {

// Eight chunks with a few pages each, which nobody touches.
struct Quiet {
  static constexpr std::uint64_t kChunks = 8, kAChunk = 4;

  explicit Quiet(May may) : guest(1, 1000, PageCount{kChunks * kChunk}), scanning(1) {
    for (std::uint64_t i = 0; i < kChunks * kAChunk; ++i) guest.process->store(page(i), i + 1);
    scanning.config.fold.pass_seconds = 0.01;
    scanning.config.fold.passes = kPasses;
    scanning.allow(may);
    scanning.add(guest);
    REQUIRE(pool->begin().has_value());
    auto started =
        fault::Server::start(pool, *guest.vm->vm, *scanning.contents, guest.vm->group, 1);
    REQUIRE(started.has_value());
    guest.vm->faults = std::move(*started);
    scanning.start();
  }
  ~Quiet() {
    scanning.workers->stop();
    guest.vm->faults.reset();  // before the store
  }
  static PageIndex page(std::uint64_t i) { return PageIndex{i / kAChunk * kChunk + i % kAChunk}; }
  bool are_all(Tag tag) const {
    for (std::uint64_t i = 0; i < kChunks * kAChunk; ++i) {
      if (guest.vm->vm->table().load(page(i))->tag() != tag) return false;
    }
    return true;
  }
  void wait_for_passes(std::uint64_t passes) const {
    const std::uint64_t end = guest.passes() + passes;
    REQUIRE(test::soon([&] { return guest.passes() >= end; }));
  }
  // Until the chunks rest for as long as they may. From then on passes take longer than the test's
  // polls.
  void come_to_rest() {
    wait_for_passes(2 * scan::Rests::kLongest);
    scanning.config.fold.pass_seconds = 0.2;
    scanning.workers->set(policy::work_targets(scanning.config));
    wait_for_passes(3);  // the terms have changed: one of these looks at all chunks
  }
  static constexpr unsigned kPasses = 3;
  std::shared_ptr<fault::Pool> pool = std::move(*fault::Pool::make());
  Guest guest;
  Scanning scanning;
};

}  // namespace

TEST_CASE("chunks in which nothing happens are looked at seldom, and the pages in them count") {
  const May may = GENERATE(May::observe, May::fold);
  Quiet quiet(may);
  REQUIRE(test::soon_quiet(
      [&] { return quiet.are_all(may == May::fold ? Tag::folded : Tag::observed); }));
  quiet.wait_for_passes(2 * scan::Rests::kLongest);
  // Each chunk is looked at once or twice; without rests it would be in each pass.
  const std::uint64_t before = quiet.guest.chunks();
  quiet.wait_for_passes(scan::Rests::kLongest);
  CHECK(quiet.guest.chunks() - before <= 2 * Quiet::kChunks);
  const MutexLock lock(quiet.guest.vm->cursor.mutex);
  CHECK(quiet.guest.vm->cursor.met_last.present ==
        (may == May::fold ? 0 : Quiet::kChunks * Quiet::kAChunk));
}

TEST_CASE("when pages may leave again, chunks that rest are looked at at once") {
  Quiet quiet(May::observe);
  REQUIRE(test::soon([&] { return quiet.are_all(Tag::observed); }));
  quiet.come_to_rest();
  const std::uint64_t before = quiet.guest.passes();
  quiet.scanning.allow(May::fold);
  REQUIRE(test::soon_quiet([&] { return quiet.are_all(Tag::folded); }));
  CHECK(quiet.guest.passes() <= before + scan::Rests::kLongest / 4);
}

TEST_CASE("a page that comes back ends its chunk's rest, and leaves as soon as without one") {
  Quiet quiet(May::fold);
  REQUIRE(test::soon_quiet([&] { return quiet.are_all(Tag::folded); }));
  quiet.come_to_rest();
  const PageIndex p = Quiet::page(5);
  const auto tag = [&] { return quiet.guest.vm->vm->table().load(p)->tag(); };
  CHECK(quiet.guest.process->load(p) == test::GuestProcess::checksum(6));
  const std::uint64_t came = quiet.guest.passes();
  REQUIRE(test::soon([&] { return tag() == Tag::clean; }));
  REQUIRE(test::soon_quiet([&] { return tag() == Tag::folded; }));
  // The rest says nothing of a page that came in the middle of it.
  CHECK(quiet.guest.passes() >= came + Quiet::kPasses - 1);
  CHECK(quiet.guest.passes() <= came + scan::Rests::kLongest / 4);
}

TEST_CASE("touches of forgotten pages count as stall, and stay within the budget") {
  constexpr double kBudget = 0.002;
  Clocked clocked(4, Clocked::kPages);
  policy::VmTargets targets = clocked.guest.vm->targets.load();
  targets.stall_budget = kBudget;
  clocked.guest.vm->targets.store(targets);
  const std::uint64_t began = monotonic_ns();
  clocked.wait_for_passes(30);
  const guest::VmCounters& counters = clocked.counters();
  CHECK(counters.retouched.get() > 0);
  CHECK(counters.touch_ns.get() == counters.retouched.get() * 1500);
  CHECK(counters.stalled_ns() >= counters.touch_ns.get());
  CHECK(static_cast<double>(counters.touch_ns.get()) <
        kBudget * static_cast<double>(monotonic_ns() - began));
  // Beyond its budget nothing more is asked.
  clocked.guest.vm->held_back.store(policy::VmActs::Because::over_budget);
  clocked.wait_for_passes(2);
  const std::uint64_t forgotten = counters.forgotten.get();
  clocked.wait_for_passes(5);
  CHECK(counters.forgotten.get() == forgotten);
}
