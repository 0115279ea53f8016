// SPDX-License-Identifier: GPL-2.0-or-later
// Counts the contents, references and bytes of each group, by form. The counters are spread over a
// few cache lines, so that workers rarely share one.
// Threads: any.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/result.hpp"
#include "base/thread_number.hpp"
#include "base/types.hpp"
#include "store/stats.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class Usage {
 public:
  static Result<Usage> make();

  void add_content(GroupId group, Form form, std::uint32_t length) noexcept {
    add(group, form, 1, static_cast<std::int64_t>(length));
  }
  void remove_content(GroupId group, Form form, std::uint32_t length) noexcept {
    add(group, form, -1, -static_cast<std::int64_t>(length));
  }
  // REQUIRES: group.value < kGroupsMax.
  void add_references(GroupId group, Form form, std::int64_t n) noexcept {
    cell(group, form).references.fetch_add(n, std::memory_order_relaxed);
  }
  // The group was wiped: its counters begin at 0 again.
  void clear(GroupId group) noexcept;
  FormStats sum(GroupId group, Form form) const noexcept;

 private:
  static constexpr std::size_t kStripes = 4;

  struct Cell {
    std::atomic<std::int64_t> contents;
    std::atomic<std::int64_t> references;
    std::atomic<std::int64_t> stored;
  };
  struct alignas(64) Stripe {
    std::array<Cell, kForms> forms;
  };
  using Group = std::array<Stripe, kStripes>;

  explicit Usage(sys::Mapping memory) noexcept : memory_(std::move(memory)) {}
  Cell& cell(GroupId group, Form form) const noexcept {
    return memory_.as<Group>()[group.value][thread_number() % kStripes]
        .forms[static_cast<std::size_t>(form)];
  }
  void add(GroupId group, Form form, std::int64_t contents, std::int64_t stored) noexcept {
    Cell& c = cell(group, form);
    c.contents.fetch_add(contents, std::memory_order_relaxed);
    c.stored.fetch_add(stored, std::memory_order_relaxed);
  }

  sys::Mapping memory_;
};

}  // namespace ramfold::store
