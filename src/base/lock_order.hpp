// SPDX-License-Identifier: GPL-2.0-or-later
// The order in which mutexes are locked, checked while a program runs. In a build with meson
// -Dchecks=true each thread notes which named mutexes it holds. lock_order.cpp has a table of
// allowed orders. Where a thread locks in an order that does not follow from the table, the process
// aborts and names the two mutexes. So a test finds a deadlock that would need bad luck to happen.
// Clang's analysis sees the order only within one function (base/thread_annotations.hpp).
// A mutex that is first in no row of the table is a leaf: while it is held, no named mutex is
// locked. Mutexes of one name count as one. In other builds nothing of this exists.
// Threads: any; lock-free.
#pragma once

#include <atomic>
#include <cstdint>

namespace ramfold {

#ifdef RAMFOLD_DENSURE
class LockOrder {
 public:
  // `name`: a string that lives for ever; null: the mutex takes no part. At most 64 names.
  explicit constexpr LockOrder(const char* name) noexcept : name_(name) {}

  // Before the thread locks the mutex. Aborts if the table does not allow it.
  void check() const noexcept;
  void locked() const noexcept;
  void unlocked() const noexcept;

 private:
  std::uint64_t bit() const noexcept;

  const char* name_;
  mutable std::atomic<std::uint64_t> bit_{0};  // of the name, once it was asked for
};
#else
class LockOrder {
 public:
  explicit constexpr LockOrder(const char* /*name*/) noexcept {}
  void check() const noexcept {}
  void locked() const noexcept {}
  void unlocked() const noexcept {}
};
#endif

}  // namespace ramfold
