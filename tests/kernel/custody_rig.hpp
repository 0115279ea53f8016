// SPDX-License-Identifier: GPL-2.0-or-later
// A VM whose RAM and agent are in this process, with a real store, pool, page table and fault
// service. A restart makes all of these anew from their files, as a daemon that begins does. There
// is one rig for all cases of a process; each case uses pages of its own.
// Threads: the test's, the fault service's, and writers of RAM.
#pragma once

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/custody/mapping_recovery.hpp"
#include "fold/recovering.hpp"
#include "kernel/count_all.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/mapping_rig.hpp"
#include "store/stats.hpp"

namespace ramfold::test {

template <typename T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().text());
  return std::move(*result);
}

// What outlives a daemon.
struct Kept {
  guest::VmRecord record;
  guest::Vm::Files files;
  store::StoreFiles store;
};

class CustodyRig {
 public:
  static constexpr PageCount kPages{1024};
  static constexpr guest::PageMask kAll = 0xffff;
  static CustodyRig& get() {
    static CustodyRig& rig = *new CustodyRig;  // RAM and agent are once for the process
    return rig;
  }

  // Kills the daemon, and begins another up to where it serves faults. lost: this one does not get
  // the pool; the next one does.
  enum class Pools : bool { kept, lost };
  void restart(Pools pools = Pools::kept) {
    restart_uncounted(pools);
    count();
  }
  void restart_uncounted(Pools pools = Pools::kept) {
    Kept kept = keep();
    leave();
    std::ranges::move(std::exchange(lost_pools_, {}), std::back_inserter(kept.store.pools));
    if (pools == Pools::lost) lost_pools_ = std::exchange(kept.store.pools, {});
    contents = must(store::Contents::adopt(std::move(kept.store)));
    begin(kept.record, std::move(kept.files), false);
    vm().wake_all();
  }
  void count() { count_all(*attached, *contents); }
  Result<daemon::MappingsFound> recover() {
    return daemon::recover_mappings(*attached, *contents, stop);
  }
  void finish() {
    REQUIRE(contents->finish_recovery().has_value());
    REQUIRE(contents->mappings_known(attached->group).has_value());
  }

  guest::Vm& vm() { return *attached->vm; }
  fold::VmPool& pool() { return *attached->pool; }
  volatile char* at(std::uint64_t page) const { return base_ + page * kPageSize; }
  Tag tag(std::uint64_t page) { return vm().table().load(PageIndex{page}).value().tag(); }
  static PageRun window(std::uint64_t first) { return {PageIndex{first}, PageCount{16}}; }
  // Whoever serves a fault owns its page a moment longer than the thread that met it waits.
  void wait_for_owners(std::uint64_t first, unsigned count) {
    REQUIRE(soon([&] {
      for (unsigned i = 0; i < count; ++i) {
        if (vm().table().owner(PageIndex{first + i}) != guest::Owner::idle) return false;
      }
      return true;
    }));
  }
  // Two windows with the same sixteen contents, each page of one begins with its number.
  void fill_twice(std::uint64_t first, unsigned content) {
    for (unsigned i = 0; i < 32; ++i) {
      std::memset(const_cast<char*>(at(first + i)), 0, kPageSize);
      *at(first + i) = static_cast<char>(content + i % 16);
      at(first + i)[1] = static_cast<char>(first / 16);
    }
    wait_for_owners(first, 32);
  }
  // A run over one window, whose pages equal contents. It holds a reference for each page.
  std::unique_ptr<fold::SharingRun> sharing(std::uint64_t first) {
    std::array<ContentId, 16> ids;
    for (unsigned i = 0; i < 16; ++i) ids[i] = put(first + i);
    return std::make_unique<fold::SharingRun>(vm(), vmas, proof, pool(), window(first), ids);
  }
  ContentId put(std::uint64_t page) {
    PageCopy copy;
    std::memcpy(copy.bytes.data(), const_cast<char*>(at(page)), kPageSize);
    auto stored = must(contents->put(attached->group, copy, contents->hash(attached->group, copy)));
    return stored.ref.release();
  }
  void share_twice(std::uint64_t first, unsigned content) {
    fill_twice(first, content);
    std::array<ContentId, 16> ids;
    for (unsigned i = 0; i < 16; ++i) ids[i] = put(first + i);
    for (unsigned i = 0; i < 16; ++i) (void)put(first + 16 + i);
    for (const std::uint64_t from : {first, first + 16}) {
      fold::SharingRun run(vm(), vmas, proof, pool(), window(from), ids);
      REQUIRE(run.map(port, 1s) == Settled::yes);
      REQUIRE(run.mapped() == kAll);
    }
  }
  guest::PageMask restore(std::uint64_t first) {
    fold::RestoringRun run(vm(), vmas, proof, pool(), window(first));
    REQUIRE(run.restore(port, 1s) == Settled::yes);
    fold::for_each_bit(run.restored(), [&](unsigned i) {
      CHECK(contents->drop(attached->group, run.content(i)) == store::Booked::done);
    });
    return run.restored();
  }
  // In which slot of the pool the kernel says that the page is.
  std::optional<ByteCount> kernel_slot(std::uint64_t page) {
    const auto range = must(vmas.at(vm().address_of(PageIndex{page})));
    if (!range || guest::RamFileId{range->device, range->inode} != pool().file()) return {};
    return ByteCount{range->offset + (vm().address_of(PageIndex{page}).value - range->begin)};
  }
  // What the daemon knows of all pages is what the kernel says.
  void compare_with_kernel() {
    std::uint64_t mapped = 0;
    for (std::uint64_t p = 0; p < kPages.value; ++p) {
      CHECK(pool().slot_of(PageIndex{p}) == kernel_slot(p));
      mapped += kernel_slot(p) ? 1 : 0;
    }
    CHECK(pool().mapped().value == mapped);
    CHECK(contents->stats().pool_mappings == mapped);
    CHECK(contents->stats().miscounted == 0);
  }
  // Everything goes back, and the pool is empty.
  void clear() {
    for (std::uint64_t p = 0; p < kPages.value; p += 16) (void)restore(p);
    compare_with_kernel();
    CHECK(pool().mapped().value == 0);
    for (int i = 0; i < 4; ++i) contents->trim();
    std::uint64_t stored = 0;
    for (const auto& form : contents->stats().forms) stored += form.contents;
    CHECK(stored == 0);
    CHECK(contents->stats().pool_allocated.value == kPageSize);  // its head
  }
  int discard(std::uint64_t page, std::uint64_t count) {
    return rf_test_discard(ram_.get(), static_cast<off_t>(page * kPageSize),
                           static_cast<off_t>(count * kPageSize));
  }
  bool in_ram_file(std::uint64_t page) const {
    const auto offset = static_cast<off_t>(page * kPageSize);
    return ::lseek(ram_.get(), offset, SEEK_DATA) == offset;
  }
  // A run that its daemon does not end: it dies with it.
  template <typename Run>
  void abandon(std::unique_ptr<Run> run) {
    static std::vector<void*>& abandoned = *new std::vector<void*>;
    abandoned.push_back(run.release());
  }

  CorePort port;
  AllButOne proof;
  const std::atomic<bool> stop{false};
  sys::VmaQuery vmas{::getpid(), sys::BorrowedFd(-1)};
  std::unique_ptr<store::Contents> contents;
  std::unique_ptr<daemon::AttachedVm> attached;

 private:
  CustodyRig() : ram_(::memfd_create("memory-backend-memfd", MFD_CLOEXEC)) {
    AgentRam ram = make_agent_ram(ram_, kPages);
    base_ = ram.base;
    ram.files.record = must(sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    const int shared = ::dup(ram.files.shared.get());
    contents = must(store::Contents::create(ByteCount{64u << 20}));
    begin(ram.record, std::move(ram.files), true);
    share_with_agent(vm(), shared);
    auto made = must(contents->pool(attached->group));
    REQUIRE(rf_mapping_pool(::dup(made.read_only.get())));
    REQUIRE(pool().open(std::move(made.read_only)));
  }

  Kept keep() {
    const guest::Vm::Files& files = vm().files();
    Kept kept;
    kept.record = vm().record();
    kept.files.uffd = must(files.uffd.duplicate());
    kept.files.rams.push_back(must(files.rams.front().duplicate()));
    kept.files.words = must(files.words.duplicate());
    kept.files.shared = must(files.shared.duplicate());
    kept.files.record = must(files.record.duplicate());
    kept.store = {must(contents->files().contents.duplicate()),
                  must(contents->files().arena.duplicate()),
                  must(contents->files().groups.duplicate()), must(contents->pool_files())};
    return kept;
  }
  // Nothing of a daemon that is killed is put in order.
  void leave() {
    contents->hand_over();
    attached->faults->stop();
    attached->faults.reset();
    attached.reset();
    contents.reset();
  }
  void begin(const guest::VmRecord& record, guest::Vm::Files files, bool fresh) {
    attached = std::make_unique<daemon::AttachedVm>();
    attached->vm = must(guest::Vm::make(record, std::move(files)));
    attached->group = must(contents->group("one"));
    attached->pool = std::make_unique<fold::VmPool>(*contents, attached->group, kPages);
    if (!fresh) {
      attached->counted.store(false);
      vm().begin_uncounted();
      vm().set_mappings_known(false);
    }
    // One mapping from the begin: what is registered differs from what is not.
    if (fresh) {
      for (std::uint64_t p = 0; p < kPages.value; p += guest::kChunkPages.value)
        REQUIRE(vm().ensure_registered(PageIndex{p}).outcome == sys::Outcome::done);
    }
    (void)vm().gate().open(0, vm().gate().epoch());
    REQUIRE(fault_pool_->begin().has_value());
    attached->faults = must(fault::Server::start(fault_pool_, vm(), *contents, attached->group, 1));
  }

  std::shared_ptr<fault::Pool> fault_pool_ = Rig::fault_pool();
  sys::Fd ram_;
  char* base_ = nullptr;
  std::vector<store::PoolFile> lost_pools_;
};

// Writes a page, and waits where it is guarded.
struct Writer {
  Writer(CustodyRig& rig, std::uint64_t page, char value)
      : thread([this, at = rig.at(page), value] {
          *at = value;
          done = true;
        }) {}
  ~Writer() { thread.join(); }
  bool waits() const {
    std::this_thread::sleep_for(200ms);
    return !done;
  }
  std::atomic<bool> done{false};
  std::thread thread;
};

}  // namespace ramfold::test
