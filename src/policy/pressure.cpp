// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/pressure.hpp"

#include <algorithm>
#include <limits>

namespace ramfold::policy {
namespace {

constexpr ByteCount plus(ByteCount a, ByteCount b) noexcept {
  const std::uint64_t room = std::numeric_limits<std::uint64_t>::max() - a.value;
  return ByteCount{a.value + std::min(b.value, room)};
}
constexpr ByteCount less(ByteCount a, ByteCount b) noexcept {
  return ByteCount{a.value - std::min(a.value, b.value)};
}

}  // namespace

ByteCount room_for_unfolding(const HostTargets& targets, const MemorySample& sample,
                             Reserve reserve) {
  const ByteCount have = plus(sample.available, sample.disk_swap_free);
  return reserve == Reserve::used ? have : less(have, targets.reserve);
}

MemoryVerdict judge(const HostTargets& targets, const MemorySample& sample,
                    ByteCount needed_if_all_back) {
  const ByteCount limit =
      plus(room_for_unfolding(targets, sample, Reserve::left_alone), targets.unbacked_max);
  return {
      .promise_kept = needed_if_all_back <= limit,
      .plentiful = targets.when == FoldWhen::pressure && sample.available > targets.keep_available};
}

}  // namespace ramfold::policy
