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

constexpr std::uint64_t kBandPart = 16;  // of keep_available
constexpr unsigned kStallsBeginPermille = 100;
constexpr unsigned kStallsEndPermille = 10;

Memory memory_of(const HostTargets& targets, const MemorySample& sample, Memory before) {
  const bool was_short = before == Memory::is_short;
  const ByteCount band{was_short ? targets.keep_available.value / kBandPart : 0};
  const unsigned stalls = was_short ? kStallsEndPermille : kStallsBeginPermille;
  const bool is_short =
      sample.available <= plus(targets.keep_available, band) || sample.stalled_permille >= stalls;
  return is_short ? Memory::is_short : Memory::enough;
}

}  // namespace

ByteCount room_for_unfolding(const HostTargets& targets, const MemorySample& sample,
                             Reserve reserve) {
  const ByteCount have = plus(sample.available, sample.disk_swap_free);
  return reserve == Reserve::used ? have : less(have, targets.reserve);
}

MemoryVerdict judge(const HostTargets& targets, const MemorySample& sample,
                    ByteCount needed_if_all_back, Memory before) {
  const ByteCount limit =
      plus(room_for_unfolding(targets, sample, Reserve::left_alone), targets.unbacked_max);
  return {.promise_kept = needed_if_all_back <= limit,
          .memory = memory_of(targets, sample, before)};
}

}  // namespace ramfold::policy
