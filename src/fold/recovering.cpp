// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/recovering.hpp"

#include "base/check.hpp"

namespace ramfold::fold {

using guest::Owner;
using guest::Tag;
using sys::Outcome;

RecoveringRun::RecoveringRun(guest::Vm& vm, const sys::VmaQuery& vmas, VmPool& pool,
                             PageRun run) noexcept
    : AgentRun(vm, vmas, pool, run), pool_of_vm_(pool) {
  ENSURE(run.count <= kAgentRunPages);
  const Owned owned = own_mapped(words_);
  owned_ = owned.pages;
  busy_ = owned.any_busy;
}

RecoveringRun::~RecoveringRun() {
  for_each_bit(owned_, [&](unsigned i) { vm_.release(page(i)); });
}

// The page maps the pool. An earlier attempt may have noted its slot, or another one: a discard
// has dropped that mapping since.
Status RecoveringRun::keep(unsigned i) noexcept {
  const ByteCount at = place_in_pool(i);
  const std::optional<ByteCount> noted = pool_of_vm_.slot_of(page(i));
  if (noted == at) return {};
  if (noted) pool_of_vm_.give_back(page(i));
  const std::uint64_t slot = at.value >> kPageShift;
  if (slot > UINT32_MAX) return fail("there is no such slot", ENOENT);
  const auto booked = pool_of_vm_.note(page(i), words_[i].content(),
                                       store::PoolSlot{static_cast<std::uint32_t>(slot)});
  if (!booked) return std::unexpected(booked.error());
  if (*booked == store::Booked::refused) damaged_ |= bit(i);
  return {};
}

Status RecoveringRun::recover() noexcept {
  if (owned_ == 0) return {};
  if (Status seen = look(owned_); !seen) {
    if (seen.error().code == ESRCH) vm_.set_gone();
    return seen;
  }
  Status status;
  Mask stay = 0;
  Mask later = 0;
  // A VM whose group has no pool maps something else.
  const Mask in_pool = pool_of_vm_.is_open() ? that_map(owned_, Maps::pool) : Mask{0};
  for_each_bit(in_pool, [&](unsigned i) {
    const Status kept = keep(i);
    if (kept) {
      stay |= bit(i);
    } else if (kept.error().code != ENOENT && kept.error().code != EOVERFLOW) {
      later |= bit(i);
      status = kept;
    }
  });
  const Mask in_ram = that_map(owned_, Maps::ram);
  for_each_run(in_ram, [&](unsigned first, unsigned count) {
    const sys::UffdRange range = vm_.range_of({page(first), PageCount{count}});
    const auto registered = vm_.uffd().register_range(range);
    if (registered.outcome == Outcome::done) return;
    if (registered.outcome == Outcome::vm_gone) vm_.set_gone();
    status = fail("register pages of the RAM file", registered.code);
    for (unsigned i = first; i < first + count; ++i) later |= bit(i);
  });
  const Mask leave = without(in_ram, later);
  strange_ = without(without(without(owned_, leave), stay), later);
  for_each_bit(leave, [&](unsigned i) {
    if (!vm_.advance(page(i), words_[i], words_[i].cleared(), Owner::restoring)) return;
    if (pool_of_vm_.slot_of(page(i))) pool_of_vm_.give_back(page(i));
    left_ |= bit(i);
  });
  owned_ = later;
  const Mask done = static_cast<Mask>(stay | leave | strange_);
  lift(done);
  release(done);
  return status;
}

}  // namespace ramfold::fold
