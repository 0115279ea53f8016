// SPDX-License-Identifier: GPL-2.0-or-later
// Volatile notes about a content: its reference count, when it was last read, how many contents
// refer to it, and which forms were tried for it.
// Threads: any; each field is an atomic of its own.
#pragma once

#include <atomic>
#include <cstdint>

namespace ramfold::store {

// The step of attempts that a content has reached; each step takes more CPU than the one before.
enum class Stage : std::uint8_t { stored = 0, patched = 1, dense = 2, densest = 3, mixed = 4 };

// The result of the last search for a reference that took none. It decides whether there is another
// search, and in which walk (Reformer).
enum class Prospect : std::uint8_t { unknown = 0, fair = 1, weak = 2, none = 3 };

class ContentNotes {
 public:
  // The number of dependents is counted up to this; from then on it means "many" until the next
  // restart.
  static constexpr std::uint16_t kDependentsMax = 0x3ff;

  // Reference count: one for each word and each dependent that names the content, and one for each
  // thread that works on it. See HeaderTable.
  std::atomic<std::uint32_t> count{0};

  // When the content was last read, in ticks of HeaderTable::set_now(). note_read() writes only
  // when the tick differs, so that many readers of one content do not contend for its cache line.
  std::uint16_t read_at() const noexcept { return read_at_.load(std::memory_order_relaxed); }
  void note_read(std::uint16_t now) noexcept {
    if (read_at() != now) read_at_.store(now, std::memory_order_relaxed);
  }

  Stage stage() const noexcept {
    return static_cast<Stage>(state_.load(std::memory_order_relaxed) >> kStageShift);
  }
  // The content is in the similarity index, and may be found as a reference.
  bool entered() const noexcept { return (state_.load(std::memory_order_relaxed) & kEntered) != 0; }
  Prospect prospect() const noexcept {
    return static_cast<Prospect>((state_.load(std::memory_order_relaxed) & kProspectBits) >>
                                 kProspectShift);
  }
  std::uint16_t dependents() const noexcept {
    return state_.load(std::memory_order_relaxed) & kDependentsMax;
  }

  void set_stage(Stage stage) noexcept {
    change([&](unsigned s) {
      return (s & ~kStageBits) | static_cast<unsigned>(stage) << kStageShift;
    });
  }
  void set_prospect(Prospect prospect) noexcept {
    change([&](unsigned s) {
      return (s & ~kProspectBits) | static_cast<unsigned>(prospect) << kProspectShift;
    });
  }
  void set_entered(bool entered) noexcept {
    change([&](unsigned s) { return entered ? s | kEntered : s & ~unsigned{kEntered}; });
  }
  void add_dependent() noexcept {
    change([](unsigned s) { return (s & kDependentsMax) == kDependentsMax ? s : s + 1; });
  }
  void remove_dependent() noexcept {
    change([](unsigned s) {
      const unsigned n = s & kDependentsMax;
      return n == 0 || n == kDependentsMax ? s : s - 1;
    });
  }
  // The id has a new content.
  void begin(std::uint16_t now) noexcept {
    read_at_.store(now, std::memory_order_relaxed);
    state_.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kStageShift = 13;
  static constexpr unsigned kStageBits = 7u << kStageShift;
  static constexpr std::uint16_t kEntered = 1u << 12;
  static constexpr unsigned kProspectShift = 10;
  static constexpr unsigned kProspectBits = 3u << kProspectShift;

  template <typename F>
  void change(F next) noexcept {
    std::uint16_t seen = state_.load(std::memory_order_relaxed);
    while (!state_.compare_exchange_weak(seen, static_cast<std::uint16_t>(next(seen)),
                                         std::memory_order_relaxed)) {
    }
  }

  std::atomic<std::uint16_t> read_at_{0};
  std::atomic<std::uint16_t> state_{0};
};
static_assert(sizeof(ContentNotes) == 8);

}  // namespace ramfold::store
