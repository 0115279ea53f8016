// SPDX-License-Identifier: GPL-2.0-or-later
// The gate of a VM (docs/design.md): a page may leave only while every fact that makes its VM
// foldable is known to hold. A hazard of QEMU's begins only after the agent has had everything
// unfolded, and for that the daemon closes the gate and waits until no run is under way. The proof
// tells which single pages may leave (guest/quiet_proof.hpp).
//
// An agent older than the proof also moves `sequence` and raises `pending` in the shared memory
// (agent/wire.h) before a call that it holds, and waits until `runs_active` is 0. A gate that was
// opened at another sequence does not hold. Agents of this version leave both at 0.
// Threads: enter() from fold workers, open()/close() from the facts' reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "agent/wire.h"

namespace ramfold::guest {

class Gate {
 public:
  // One run between its guard and its end.
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
      return gate_->state_.load(std::memory_order_seq_cst) == ticket_ &&
             gate_->agent_agrees(static_cast<std::uint32_t>(ticket_));
    }

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
  // The sequence number of an older agent. Take it before reading the facts, and pass it to open()
  // afterwards.
  std::uint32_t sequence() const noexcept {
    return shared_->sequence.load(std::memory_order_seq_cst);
  }
  bool hazard_pending() const noexcept {
    return shared_->pending.load(std::memory_order_seq_cst) != 0;
  }
  // Counts how often the gate was closed. Take it before reading the facts: if the gate is closed
  // meanwhile, open() does nothing.
  std::uint32_t epoch() const noexcept {
    return static_cast<std::uint32_t>(state_.load(std::memory_order_seq_cst) >> kEpochShift);
  }
  // Opens the gate, because the facts read at `sequence` allow folding. False: the gate was closed
  // since `epoch` was taken, or is locked.
  [[nodiscard]] bool open(std::uint32_t sequence, std::uint32_t epoch) noexcept {
    if (!change(epoch, kOpen | sequence, epoch)) return false;
    // Either this sees locked_, or lock() closes the gate that was opened here.
    if (!locked_.load(std::memory_order_seq_cst)) return true;
    close();
    return false;
  }
  void close() noexcept {
    std::uint32_t seen = epoch();
    while (!change(seen, 0, (seen + 1) & kEpochMask)) seen = epoch();
  }
  // Closes the gate for good, for a VM whose page state cannot be trusted. Any thread.
  void lock() noexcept {
    locked_.store(true, std::memory_order_seq_cst);
    close();
  }
  bool is_open() const noexcept {
    const std::uint64_t s = state_.load(std::memory_order_seq_cst);
    return (s & kOpen) != 0 && agent_agrees(static_cast<std::uint32_t>(s));
  }
  std::uint32_t sticky_hazards() const noexcept {
    return shared_->sticky.load(std::memory_order_relaxed);
  }
  // Waits until no run of this daemon is under way; REQUIRES: close() before. Spins with short
  // sleeps; a run takes about a millisecond at most.
  void drain() const noexcept;
  bool is_drained() const noexcept { return runs_.load(std::memory_order_seq_cst) == 0; }
  // For a daemon that begins: the runs that a dead one counted have ended.
  void reset_runs() noexcept { shared_->runs_active.store(0, std::memory_order_seq_cst); }

 private:
  static constexpr std::uint64_t kOpen = std::uint64_t{1} << 32;
  static constexpr unsigned kEpochShift = 33;
  static constexpr std::uint32_t kEpochMask = (1u << (64 - kEpochShift)) - 1;

  bool change(std::uint32_t epoch, std::uint64_t to, std::uint32_t epoch_to) noexcept {
    std::uint64_t seen = state_.load(std::memory_order_seq_cst);
    while (seen >> kEpochShift == epoch) {
      const std::uint64_t next = to | (std::uint64_t{epoch_to} << kEpochShift);
      if (state_.compare_exchange_weak(seen, next, std::memory_order_seq_cst)) return true;
    }
    return false;
  }

  bool agent_agrees(std::uint32_t sequence) const noexcept {
    const std::uint64_t s = state_.load(std::memory_order_seq_cst);
    return (s & kOpen) != 0 && shared_->pending.load(std::memory_order_seq_cst) == 0 &&
           shared_->sequence.load(std::memory_order_seq_cst) == sequence;
  }

  rf_shared* shared_;
  // From the lowest: sequence (32 bits), open, epoch (31 bits).
  std::atomic<std::uint64_t> state_{0};
  std::atomic<bool> locked_{false};
  // The same count as runs_active, in memory that no agent can write. The daemon itself waits for
  // this one.
  std::atomic<std::uint32_t> runs_{0};
};

}  // namespace ramfold::guest
