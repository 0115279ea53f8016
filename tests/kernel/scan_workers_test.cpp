// SPDX-License-Identifier: GPL-2.0-or-later
// Passes of several real VMs at the same time (src/daemon/work/scan_workers). The test counts
// passes and chunks, never time.
#include "daemon/work/scan_workers.hpp"

#include <fcntl.h>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "daemon/report/accounting.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "patience.hpp"
#include "store/contents.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

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
    host.publish(std::move(verdict));
  }
  void add(const Guest& guest) {
    guest.vm->group = *contents->group(std::to_string(guest.vm->vm->id().value));
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
  scanning.workers->start();
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
  scanning.workers->start();
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
  scanning.workers->start();
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
  scanning.workers->start();
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
  Guest guest(1, 1000, PageCount{kChunk});
  guest.process->store(PageIndex{0}, 0);
  guest.process->store(PageIndex{1}, 5);
  Scanning scanning(1);
  scanning.allow(May::fold);
  scanning.config.fold.passes = 1;
  scanning.add(guest);
  // Beyond its owner's share of page tables not even those.
  guest.vm->keeps.too_much = TooMuch::of_tables;
  scanning.workers->start();
  const guest::VmCounters& counters = guest.vm->vm->counters();
  REQUIRE(test::soon([&] { return guest.passes() >= 4; }));
  CHECK(counters.folded_zero.get() == 0);
  CHECK(counters.folded_content.get() == 0);
  guest.vm->keeps.too_much = TooMuch::of_vm;
  const std::uint64_t passes = guest.passes();
  REQUIRE(test::soon_quiet(
      [&] { return counters.folded_zero.get() == 1 && guest.passes() >= passes + 4; }));
  CHECK(counters.folded_content.get() == 0);
  guest.vm->keeps.too_much = TooMuch::nothing;
  CHECK(test::soon_quiet([&] { return counters.folded_content.get() == 1; }));
  scanning.workers->stop();
}

TEST_CASE("pages that something held in the last pass are told, and the others are folded") {
  constexpr std::uint64_t kHeld = 5;
  Guest guest(1, 1000, PageCount{kChunk});
  for (std::uint64_t page = 0; page < 64; ++page) guest.process->store(PageIndex{page}, page + 1);
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  sys::Fd out(ends[0]);
  sys::Fd in(ends[1]);
  loff_t at = 0;
  REQUIRE(::splice(guest.process->ram(), &at, in.get(), nullptr, kHeld << kPageShift, 0) ==
          static_cast<ssize_t>(kHeld << kPageShift));
  Scanning scanning(1);
  scanning.allow(May::fold);
  scanning.add(guest);
  scanning.workers->start();
  const auto held = [&] {
    const std::lock_guard lock(guest.vm->cursor.mutex);
    return guest.vm->cursor.busy_last;
  };
  const guest::VmCounters& counters = guest.vm->vm->counters();
  CHECK(test::soon_quiet(
      [&] { return held() == kHeld && counters.folded_content.get() == 64 - kHeld; }));
  out.reset();
  in.reset();
  CHECK(test::soon_quiet([&] { return held() == 0 && counters.folded_content.get() == 64; }));
  scanning.workers->stop();
}
