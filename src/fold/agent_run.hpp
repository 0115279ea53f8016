// SPDX-License-Identifier: GPL-2.0-or-later
// Up to 16 neighbouring pages that one thread owns while the VM's agent changes what their
// addresses map. What the agent answers decides nothing: the kernel is asked what is mapped now. If
// the answer did not come, the command may still run, until the next fence was answered. Until then
// the pages keep their owner, their words, their guards and their slots.
// Threads: one for each run.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <span>

#include "fold/mask.hpp"
#include "fold/shared_pool.hpp"
#include "guest/agent_port.hpp"
#include "guest/quiet_proof.hpp"
#include "guest/vm.hpp"
#include "sys/vma_query.hpp"

namespace ramfold::fold {

inline constexpr PageCount kAgentRunPages{16};

// no: a command was sent, and its effect is not known. See AgentRun::waits().
enum class Settled : bool { no, yes };

// What a run that is not settled waits for.
enum class WaitsFor : std::uint8_t {
  answer,  // look_for_answer() through the port that the run used; then settle()
  fence,   // the answer is lost: settle() when a later port of the VM is open
  kernel,  // settle() once more: the kernel did not tell what is mapped
};

// What the address of a page maps.
enum class Maps : std::uint8_t { other, ram, pool };

class AgentRun {
 public:
  AgentRun(const AgentRun&) = delete;
  AgentRun& operator=(const AgentRun&) = delete;

  // REQUIRES: not settled.
  WaitsFor waits_for() const noexcept { return waits_for_; }
  // Waits at most `wait` for the answer, if the run waits for one. REQUIRES: `agent` is the port
  // that the command was sent through.
  WaitsFor look_for_answer(guest::AgentPort& agent, std::chrono::milliseconds wait);
  PageRun run() const noexcept { return run_; }

 protected:
  using Mask = guest::PageMask;

  AgentRun(guest::Vm& vm, const sys::VmaQuery& vmas, SharedPool& pool, PageRun run) noexcept
      : vm_(vm), vmas_(vmas), pool_(pool), run_(run) {}
  ~AgentRun() = default;

  PageIndex page(unsigned i) const noexcept { return PageIndex{run_.first.value + i}; }
  // Owns, as `restoring`, the pages of the run whose words say `mapped`. `words`: of these pages.
  struct Owned {
    Mask pages = 0;
    bool any_busy = false;  // somebody else owns a page of the run at this moment
  };
  Owned own_mapped(std::span<guest::Word> words) noexcept;
  // Asks the kernel about these pages. ESRCH: the process is gone.
  Status look(Mask pages) noexcept;
  // Those of the pages whose addresses mapped this when look() was asked last.
  Mask that_map(Mask pages, Maps what) const noexcept;
  // Where in the pool page i is, if look() found that it maps the pool.
  ByteCount place_in_pool(unsigned i) const noexcept { return in_pool_[i]; }
  // Those of the pages that are quiet. REQUIRES: they are owned and guarded.
  Mask quiet(guest::QuietProof& proof, Mask pages) noexcept;
  // Has the agent do it, to runs of pages; `slots`: for each page of the window, where in the pool.
  // No: the command may run later.
  Settled ask(guest::AgentPort& agent, guest::AgentAct act, Mask pages,
              std::span<const ByteCount> slots, std::chrono::milliseconds wait);
  void lift(Mask pages) noexcept;
  // Wakes whoever waits for these pages, and ends the ownership.
  void release(Mask pages) noexcept;

  guest::Vm& vm_;
  const sys::VmaQuery& vmas_;
  SharedPool& pool_;
  PageRun run_;

 private:
  WaitsFor waits_for_ = WaitsFor::kernel;
  guest::AgentToken token_;
  std::array<Maps, kAgentRunPages.value> maps_{};
  std::array<ByteCount, kAgentRunPages.value> in_pool_{};
};

}  // namespace ramfold::fold
