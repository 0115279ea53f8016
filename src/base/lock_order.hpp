// SPDX-License-Identifier: GPL-2.0-or-later
// The order in which mutexes are locked, learned while a program runs. In a build with meson
// -Dchecks=true every mutex that has a name notes which named mutexes its thread holds when it
// locks it. When two orders contradict each other, in one thread or in several, at one time or at
// different times, the process aborts and names the two mutexes. So each test that takes both ways
// finds a deadlock that would need bad luck to happen. Clang's analysis sees the order only within
// one function (base/thread_annotations.hpp). Mutexes of one name count as one. In other builds
// nothing of this exists.
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

  // Before the thread locks the mutex. Aborts where the order contradicts an earlier one.
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
