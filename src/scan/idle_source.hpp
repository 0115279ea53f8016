// SPDX-License-Identifier: GPL-2.0-or-later
// Asks which pages of a chunk the guest touches: marks their frames idle (sys/idle_pages.hpp). A
// frame that is no longer idle at the next look was touched. The guest pays nothing for it, and no
// agent is needed. Entries of QEMU's page table stay.
//
// The daemon's own reads of a page count as touches (mark_page_accessed in the kernel's read of
// shared memory). A pass hears the answers before it reads any page of the chunk, and asks after.
// Threads: any.
#pragma once

#include <functional>
#include <utility>

#include "scan/referenced.hpp"
#include "sys/idle_pages.hpp"

namespace ramfold::scan {

class IdleSource final : public ReferencedSource {
 public:
  // The frame of each page of a run within one block; 0: it has none.
  using FramesOf = std::function<Status(const guest::Vm&, PageRun, std::span<std::uint64_t>)>;

  explicit IdleSource(sys::IdlePages idle, FramesOf frames_of = frames_in_pagemap)
      : idle_(std::move(idle)), frames_of_(std::move(frames_of)) {}

  std::string_view name() const noexcept override { return "page_idle"; }
  std::uint64_t touch_ns() const noexcept override { return 0; }
  bool needs_agent() const noexcept override { return false; }
  TouchedPages touched(const guest::Vm& vm, std::span<const SeenPage> seen,
                       const History& history) const override;
  bool ask(const guest::Vm& vm, guest::AgentPort* agent, const Question& question,
           std::span<const SeenPage> seen, History& history) const override;

 private:
  using Frames = std::array<std::uint64_t, guest::kChunkPages.value>;
  static_assert(guest::kChunkPages.value <= sys::IdlePages::kFramesMax);

  static Status frames_in_pagemap(const guest::Vm& vm, PageRun run, std::span<std::uint64_t> into);
  // frames[i]: the frame of seen[i]; 0: it has none.
  Status frames_of(const guest::Vm& vm, std::span<const SeenPage> seen, Frames& frames) const;

  sys::IdlePages idle_;
  FramesOf frames_of_;
};

}  // namespace ramfold::scan
