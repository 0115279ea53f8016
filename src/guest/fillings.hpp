// SPDX-License-Identifier: GPL-2.0-or-later
// T5, the daemon's half of a discard beside a fill: what tells the agent that a thread may have
// looked at a discard bit before it was set, and has not yet ended its COPY. The agent waits for
// such a thread between its bits and its call, so the call takes the copy with it. The protocol is
// in agent/wire.h.
// The agent can write to this memory: it is never read back, but for where counting goes on, and
// any value will do for that.
// Threads: a Filling is one thread's; the rest as said.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "agent/wire.h"

namespace ramfold::guest {

class Filling {
 public:
  // From before the look at the discard bit until the end of the COPY. Whoever holds it waits for
  // nothing: not for a lock, the store or the agent, whose thread waits for this one.
  class Section {
   public:
    explicit Section(Filling& filling) noexcept : filling_(filling) { filling_.next(); }
    ~Section() { filling_.next(); }
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

   private:
    Filling& filling_;
  };

 private:
  friend class Fillings;
  // Sequentially consistent, as the agent's look at it is: either the agent sees the odd value, or
  // the look at the discard bit that follows sees the bit.
  void next() noexcept {
#ifndef RAMFOLD_TEST_NO_FILLING
    word_->store(++count_, std::memory_order_seq_cst);
#endif
  }

  std::atomic<std::uint32_t>* word_ = nullptr;
  std::uint32_t count_ = 0;  // even outside a section
};

class Fillings {
 public:
  static constexpr std::size_t kUnfolder = 0;    // daemon/bring_back/unfold, one at a time
  static constexpr std::size_t kFaultFirst = 1;  // fault threads
  static constexpr std::size_t kFaultMax = RF_FILLINGS - kFaultFirst;

  // A daemon begins: what a dead one left odd has ended, and no connection tells of this one's end
  // yet. REQUIRES: no other daemon serves this VM, and nobody fills yet.
  explicit Fillings(rf_shared& shared) noexcept : shared_(&shared) {
    agent_is_away();
    for (std::size_t i = 0; i < fillings_.size(); ++i) {
      Filling& f = fillings_[i];
      f.word_ = &shared.filling[i].word;
      f.count_ = (f.word_->load(std::memory_order_seq_cst) + 1) & ~std::uint32_t{1};
      f.word_->store(f.count_, std::memory_order_seq_cst);
    }
  }
  Fillings(const Fillings&) = delete;
  Fillings& operator=(const Fillings&) = delete;

  Filling& operator[](std::size_t i) noexcept { return fillings_[i]; }

  // The agents' thread: before the agent is told of this memory, and before a connection to it is
  // closed. In between, the end of the connection means that this daemon is dead, and its fills
  // with it.
  void agent_is_there(std::uint32_t generation) noexcept {
    shared_->session.store(generation, std::memory_order_seq_cst);
  }
  void agent_is_away() noexcept { shared_->session.store(0, std::memory_order_seq_cst); }

 private:
  rf_shared* shared_;
  std::array<Filling, RF_FILLINGS> fillings_;
};

}  // namespace ramfold::guest
