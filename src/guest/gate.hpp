// SPDX-License-Identifier: GPL-2.0-or-later
// The gate (docs/design.md): a page may leave only while every fact that makes its VM foldable is
// known to hold. The facts were read at a sequence number of the agent's; the agent moves it before
// any of them can end, and waits until no run is active. The protocol is in agent/wire.h.
// Threads: enter() from fold workers, open()/close() from the facts' reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "agent/wire.h"

namespace ramfold::guest {

class Gate {
 public:
  // What stands in for device writes in flight: facts that exclude them, or a wait
  // (guest/grace.hpp).
  enum class Mode : std::uint8_t { closed, proved, grace };

  // One run between its guard and its end. While it lives the agent holds hazards back.
  class Pass {
   public:
    Pass(Pass&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), ticket_(other.ticket_) {}
    Pass& operator=(Pass&&) = delete;
    ~Pass() {
      if (gate_ == nullptr) return;
      gate_->shared_->runs_active.fetch_sub(1, std::memory_order_seq_cst);
      gate_->runs_.fetch_sub(1, std::memory_order_seq_cst);
    }
    // Asked after the guard and again before the commit.
    bool holds() const noexcept {
#ifdef RAMFOLD_TEST_NO_GATE
      return true;
#else
      return gate_->state_.load(std::memory_order_seq_cst) == ticket_ &&
             gate_->agent_agrees(static_cast<std::uint32_t>(ticket_));
#endif
    }

    // The run is under the rules of the grace mode, from its beginning to its end.
    bool in_grace() const noexcept { return (ticket_ & kGrace) != 0; }

   private:
    friend class Gate;
    Pass(Gate* gate, std::uint64_t ticket) noexcept : gate_(gate), ticket_(ticket) {}
    Gate* gate_;
    std::uint64_t ticket_;
  };

  explicit Gate(rf_shared& shared) noexcept : shared_(&shared) {}
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Begins a run; always gives a Pass, which holds() or not.
  Pass enter() noexcept {
    runs_.fetch_add(1, std::memory_order_seq_cst);
    shared_->runs_active.fetch_add(1, std::memory_order_seq_cst);
    return Pass(this, state_.load(std::memory_order_seq_cst));
  }
  // What facts must be read at: ask before reading them, give it to open() after.
  std::uint32_t sequence() const noexcept {
    return shared_->sequence.load(std::memory_order_seq_cst);
  }
  bool hazard_pending() const noexcept {
    return shared_->pending.load(std::memory_order_seq_cst) != 0;
  }
  // The facts read at `sequence` say: foldable. REQUIRES: closed and drained between two modes.
  void open(std::uint32_t sequence, Mode mode = Mode::proved) noexcept {
    state_.store(kOpen | (mode == Mode::grace ? kGrace : 0) | sequence, std::memory_order_seq_cst);
  }
  void close() noexcept { state_.store(0, std::memory_order_seq_cst); }
  Mode mode() const noexcept {
    const std::uint64_t s = state_.load(std::memory_order_seq_cst);
    if ((s & kOpen) == 0 || !agent_agrees(static_cast<std::uint32_t>(s))) return Mode::closed;
    return (s & kGrace) != 0 ? Mode::grace : Mode::proved;
  }
  bool is_open() const noexcept { return mode() != Mode::closed; }
  std::uint32_t sticky_hazards() const noexcept {
    return shared_->sticky.load(std::memory_order_relaxed);
  }
  // Waits until no run of this daemon is under way; REQUIRES: close() before. Spins with short
  // sleeps; a run takes well under a millisecond.
  void drain() const noexcept;
  bool is_drained() const noexcept { return runs_.load(std::memory_order_seq_cst) == 0; }
  // At the start of a daemon's session: what a dead one counted is void.
  void reset_runs() noexcept { shared_->runs_active.store(0, std::memory_order_seq_cst); }

 private:
  static constexpr std::uint64_t kOpen = std::uint64_t{1} << 32;
  static constexpr std::uint64_t kGrace = std::uint64_t{1} << 33;

  bool agent_agrees(std::uint32_t sequence) const noexcept {
    const std::uint64_t s = state_.load(std::memory_order_seq_cst);
    return (s & kOpen) != 0 && shared_->pending.load(std::memory_order_seq_cst) == 0 &&
           shared_->sequence.load(std::memory_order_seq_cst) == sequence;
  }

  rf_shared* shared_;
  std::atomic<std::uint64_t> state_{0};
  // The same count as runs_active, where no agent can write: what the daemon itself waits for.
  std::atomic<std::uint32_t> runs_{0};
};

}  // namespace ramfold::guest
