// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/holds.hpp"

#include <utility>

namespace ramfold::store {
namespace {

constexpr std::uint64_t bit_of(std::uint32_t i) noexcept { return std::uint64_t{1} << (i % 64); }

}  // namespace

Status Holds::begin(const Uncounted& uncounted, std::uint32_t limit) {
  if (uncounted.none()) return {};
  if (limit != 0) {
    auto memory = sys::Mapping::anonymous(ByteCount{(limit + 63) / 64 * sizeof(Word)});
    if (!memory) return std::unexpected(memory.error());
    memory_ = std::move(*memory);
    limit_ = limit;
    ids_.store(memory_.as<Word>(), std::memory_order_release);
  }
  for (const GroupId group : uncounted.groups) {
    if (group.value < kGroupsMax) groups_[group.value / 64].fetch_or(bit_of(group.value));
  }
  covers_all_.store(uncounted.any_group);
  covers_any_.store(true);
  return {};
}

void Holds::narrow(const Uncounted& still) noexcept {
  if (still.any_group) return;
  const bool all = covers_all_.load();
  for (std::uint32_t i = 0; i < groups_.size(); ++i) {
    std::uint64_t kept = 0;
    for (const GroupId group : still.groups) {
      if (group.value / 64 == i) kept |= bit_of(group.value);
    }
    groups_[i].store(all ? kept : groups_[i].load() & kept);
  }
  covers_all_.store(false);
  if (still.none()) covers_any_.store(false, std::memory_order_release);
}

bool Holds::covers(GroupId group) const noexcept {
  if (!any()) return false;
  if (covers_all_.load()) return true;
  return group.value < kGroupsMax && (groups_[group.value / 64].load() & bit_of(group.value)) != 0;
}

bool Holds::has(ContentId id) const noexcept {
  const Word* const ids = ids_.load(std::memory_order_acquire);
  return ids != nullptr && id.value < limit_ &&
         (ids[id.value / 64].load(std::memory_order_relaxed) & bit_of(id.value)) != 0;
}

void Holds::add(ContentId id) noexcept { ids_.load()[id.value / 64].fetch_or(bit_of(id.value)); }

void Holds::remove(ContentId id) noexcept {
  ids_.load()[id.value / 64].fetch_and(~bit_of(id.value));
}

}  // namespace ramfold::store
