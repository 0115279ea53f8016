// SPDX-License-Identifier: GPL-2.0-or-later
// Chunks in which nothing happens rest: a pass does not look at them. Each look that finds nothing
// doubles the time until the next one, up to kLongest passes. So a scan costs in proportion to what
// changes, not to what exists.
//
// The caller says how long a chunk may rest (ChunkQueue::rest_of). A page that comes back, and a
// write to a guarded page, ends the rest of its chunk (Vm::stir).
// Threads: one at a time.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/result.hpp"
#include "scan/plan.hpp"
#include "sys/memory.hpp"
#include "sys/resident.hpp"

namespace ramfold::scan {

class Rests {
 public:
  static constexpr unsigned kLongest = 128;  // passes from one look to the next

  static ByteCount size(std::size_t chunks) noexcept { return ByteCount{chunks * sizeof(Chunk)}; }
  ByteCount in_memory() const noexcept { return sys::resident(bytes_); }
  // Takes memory only for chunks that were looked at.
  static Result<Rests> make(std::size_t chunks) {
    auto bytes = sys::Mapping::anonymous(size(chunks));
    if (!bytes) return std::unexpected(bytes.error());
    return Rests(std::move(*bytes));
  }

  // The first chunk in [from, end) that this pass has to look at; `end`: none. Adds to `met` what
  // the last looks met in the chunks before it. `all`: this pass looks at every chunk.
  // `take_stir(chunk)`: a fault has ended its rest; asked once. REQUIRES: a pass asks about each
  // chunk once at most.
  template <typename TakeStir>
  std::size_t next_due(std::size_t from, std::size_t end, bool all, Met& met,
                       TakeStir take_stir) noexcept {
    for (; from < end; ++from) {
      Chunk& chunk = at(from);
      if (chunk.waits == 0) return from;  // so does every chunk that no look has met
      if (take_stir(from)) {
        chunk.idle = 0;
        return from;
      }
      if (all) return from;
      --chunk.waits;
      ++chunk.rested;
      met.present += chunk.present;
      met.held += chunk.held;
    }
    return end;
  }
  // The passes since the last look at the chunk, which this pass looks at.
  unsigned epochs(std::size_t chunk) const noexcept { return at(chunk).rested + 1u; }
  // A look has ended. `longest`: the chunk may wait for the next look for so many passes; 1: the
  // next pass has to look.
  void looked(std::size_t chunk, const Met& met, unsigned longest) noexcept;

 private:
  struct Chunk {
    std::uint8_t waits;     // passes that will not look at it
    std::uint8_t rested;    // passes that did not since the last look
    std::uint8_t idle;      // looks in a row that allowed a rest
    std::uint16_t present;  // as the last look met them
    std::uint16_t held;
  };
  static_assert(sizeof(Chunk) == 8);

  explicit Rests(sys::Mapping bytes) noexcept : bytes_(std::move(bytes)) {}
  Chunk& at(std::size_t chunk) const noexcept { return bytes_.as<Chunk>()[chunk]; }

  sys::Mapping bytes_;
};

inline void Rests::looked(std::size_t chunk, const Met& met, unsigned longest) noexcept {
  Chunk& now = at(chunk);
  constexpr unsigned kIdleMax{std::countr_zero(kLongest)};
  static_assert(kLongest == 1u << kIdleMax && kLongest <= 255);
  now.idle = longest <= 1 ? 0 : static_cast<std::uint8_t>(std::min(now.idle + 1u, kIdleMax));
  const unsigned passes = std::min(1u << now.idle, std::max(longest, 1u));
  now.waits = static_cast<std::uint8_t>(passes - 1);
  now.rested = 0;
  now.present = static_cast<std::uint16_t>(met.present);
  now.held = static_cast<std::uint16_t>(met.held);
}

}  // namespace ramfold::scan
