// SPDX-License-Identifier: GPL-2.0-or-later
// T5, the daemon's half of the protocol between a discard and a fill. A Filling tells the agent
// that a thread is between its look at a discard bit and the end of its COPY. The agent sets its
// bits, waits for such threads, and then makes its call, which removes their copies. The protocol
// is in agent/wire.h.
//
// The agent can write to this memory. So the daemon reads a word only once, to go on counting from
// it, and any value will do for that.
// Threads: a Filling belongs to one thread; the rest as said.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "agent/wire.h"

namespace ramfold::guest {

class Filling {
 public:
  // Lasts from before the look at the discard bit until the end of the COPY. Meanwhile its thread
  // waits for nothing: not for a lock, the store or the agent, because a thread of QEMU may wait
  // for this one.
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

  // For a daemon that begins. The fills of a dead daemon have ended, so odd words become even. No
  // connection would show this daemon's death yet, so `session` becomes 0. REQUIRES: no other
  // daemon serves this VM, and nobody fills yet.
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

  // For the agents' thread: agent_is_there() before the agent gets this memory, agent_is_away()
  // before a connection to it is closed. In between, the end of the connection means that this
  // daemon is dead and its fills have ended.
  void agent_is_there(std::uint32_t generation) noexcept {
    shared_->session.store(generation, std::memory_order_seq_cst);
  }
  void agent_is_away() noexcept { shared_->session.store(0, std::memory_order_seq_cst); }

 private:
  rf_shared* shared_;
  std::array<Filling, RF_FILLINGS> fillings_;
};

}  // namespace ramfold::guest
