// SPDX-License-Identifier: GPL-2.0-or-later
// A process with RAM, a store, a fault service and a fold worker: everything but the daemon around
// them.
// Threads: the test's; the fault service has its own.
#pragma once

#include <unistd.h>
#include <catch2/catch.hpp>
#include <memory>

#include "fault/server.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "patience.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"
#include "sys/page_batches.hpp"

namespace ramfold::test {

struct Rig {
  std::unique_ptr<GuestProcess> process;
  std::shared_ptr<store::Contents> contents;
  std::unique_ptr<guest::Vm> vm;
  std::shared_ptr<fault::Pool> pool = fault_pool();
  std::unique_ptr<fault::Server> faults;
  guest::PinProof proof{pin_test()};
  std::unique_ptr<fold::Folder> folder;
  store::GroupUse group;
  std::string group_name;
  scan::ColdRule rule{1, 1};
  std::uint64_t held = 0;  // pages that the last pass met held back

  // One for all rigs that there are at a time, as a daemon has.
  static std::shared_ptr<fault::Pool> fault_pool() {
    static std::weak_ptr<fault::Pool> shared;
    if (auto pool = shared.lock()) return pool;
    auto made = fault::Pool::make();
    REQUIRE(made.has_value());
    shared = *made;
    return *made;
  }
  static std::shared_ptr<store::Contents> make_store() {
    auto made = store::Contents::create(ByteCount{1u << 30});
    REQUIRE(made.has_value());
    return std::shared_ptr<store::Contents>(std::move(*made));
  }

  // `store`: shared with another rig. `source`: what the fault service reads contents through.
  // `made`: a process that was started before; a second one is best started before the first one's
  // threads (TSan).
  explicit Rig(std::uint64_t pages, std::shared_ptr<store::Contents> store = make_store(),
               store::ContentSource* source = nullptr, std::uint32_t id = 1,
               std::unique_ptr<GuestProcess> made = nullptr)
      : process(made ? std::move(made) : GuestProcess::start(PageCount{pages})),
        contents(std::move(store)),
        vm(process->make_vm(id)) {
    source_ = source != nullptr ? source : contents.get();
    folder = std::make_unique<fold::Folder>(*contents, proof);
    group_name = "test " + std::to_string(id);
    group = *contents->group(group_name);
    (void)vm->gate().open(0, vm->gate().epoch());
    serve();
  }
  // A fault service, after the last one was stopped as if its daemon had died.
  void serve() {
    REQUIRE(pool->begin().has_value());
    auto started = fault::Server::start(pool, *vm, *source_, group, 1);
    REQUIRE(started.has_value());
    faults = std::move(*started);
  }
  // As a daemon that took `vm` over would, with this store.
  void takes(const std::shared_ptr<store::Contents>& store) {
    contents = store;
    source_ = store.get();
    folder = std::make_unique<fold::Folder>(*store, proof);
    (void)vm->gate().open(0, vm->gate().epoch());
    serve();
  }
  // One pass over everything. Pages that were touched a moment ago count as well: else those that
  // the kernel has not sorted in yet would look held.
  void pass() {
    sys::drain_page_batches();
    scan::Planner planner(proof);
    auto windows = std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
    vm->next_pass();
    held = 0;
    for (std::size_t chunk = 0; chunk < scan::chunk_count(*vm); ++chunk) {
      const auto n = planner.plan(*vm, chunk, rule, *windows);
      if (!n) continue;  // only where errors are injected
      held += planner.met().held;
      for (std::size_t i = 0; i < *n; ++i) {
        folder->look(*vm, group, (*windows)[i]);
        folder->leave(*vm, group, (*windows)[i], {});
      }
    }
  }
  void fold_all() {
    for (int i = 0; i < 3; ++i) pass();
  }
  // Passes until something has happened; see fold_until().
  template <typename Condition>
  void pass_until(Condition condition) {
    (void)soon([&] {
      if (condition()) return true;
      pass();
      return false;
    });
  }
  // Passes until all of them are folded: the fault service may still own a page whose waiter it has
  // woken.
  void fold_until(std::uint64_t pages) {
    std::uint64_t folded = 0;
    const bool all = soon([&] {
      pass();
      for (folded = 0; folded < pages && tag(folded) == guest::Tag::folded;) ++folded;
      return folded == pages;
    });
    if (all) return;
    FAIL("page " << folded << ": tag " << static_cast<int>(tag(folded)) << ", owner "
                 << static_cast<int>(vm->table().owner(PageIndex{folded})));
  }
  guest::Tag tag(std::uint64_t p) { return vm->table().load(PageIndex{p}).value().tag(); }
  // What the agent does before QEMU's discard.
  void set_discard_bit(std::uint64_t p) {
    auto* bitmap = reinterpret_cast<std::uint64_t*>(
        reinterpret_cast<std::byte*>(&vm->table().shared()) + RF_SHARED_PAGE);
    std::atomic_ref<std::uint64_t>(bitmap[p / 64]).fetch_or(std::uint64_t{1} << (p % 64));
  }

 private:
  store::ContentSource* source_ = nullptr;
};

inline constexpr PageIndex kNine{9};
// Of 16 pages, page 9 holds seed 5; all are folded.
inline void fold_nine(Rig& rig) {
  for (std::uint64_t p = 0; p < 16; ++p) rig.process->store(PageIndex{p}, p == 9 ? 5 : p + 100);
  rig.fold_until(16);
}

}  // namespace ramfold::test
