// SPDX-License-Identifier: GPL-2.0-or-later
// The table of trust groups: name, id and hash seed, in a memory file of its own; and how many use
// each of them.
//
// A group's life, by its uses, which are its users (GroupUse), its contents and, until recovery is
// over, one for every group that was found: whoever gives up the last wipes name and seed. From
// then on the id may be another group's. Nothing of the old group is left then: whatever names a
// group in memory is one of its contents or users, and what a content left in the index or among
// the sketches is checked against the header of what is there now.
//
// Threads: any. hasher() and the counting of contents take no lock; acquire(), and whoever gives up
// the last use, take one, a leaf, never held over a system call.
// Invariants: uses leave 0 only under the lock. An entry is sound in the file only between the end
// of its making and the begin of its wiping, so a process that is killed in either leaves an entry
// that nothing names, and recovery wipes it.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/group.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"
#include "store/usage.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class GroupTable {
 public:
  static Result<sys::Fd> make_file(std::uint64_t store_id);
  // Every group in the file is held until end_recovery(). REQUIRES: `file` stays open while this
  // lives. Errors: not a table of this version or store.
  static Result<std::shared_ptr<GroupTable>> open(sys::BorrowedFd file, std::uint64_t store_id);

  // One more user of the group of that name, which is made when there is none. Errors: EINVAL the
  // name; ENOSPC kGroupsMax groups are in use.
  Result<GroupId> acquire(std::string_view name) EXCLUDES(mutex_);
  // One more content. False: there is no such group (a damaged header may name any).
  bool add_use(GroupId group) noexcept;
  // Of a user or a content. REQUIRES: it was counted.
  void release(GroupId group) noexcept EXCLUDES(mutex_);
  // All contents were counted: who has neither those nor a user goes.
  void end_recovery() noexcept;
  // From now on nothing is wiped: the file is about to be another process's.
  void close() noexcept EXCLUDES(mutex_);

  // nullptr when there is no such group.
  const PageHasher* hasher(GroupId group) const noexcept {
    if (group.value >= kGroupsMax) return nullptr;
    const Group& g = groups_[group.value];
    return g.exists.load(std::memory_order_acquire) ? &g.hasher : nullptr;
  }
  // Ids of groups are below this.
  std::uint32_t limit() const noexcept { return limit_.load(std::memory_order_acquire); }
  // Groups that were wiped so far. What was derived from a seed is void when this has grown.
  std::uint64_t wiped() const noexcept { return wiped_.load(std::memory_order_acquire); }
  // Empty when there is no such group, or its entry is damaged.
  std::string name(GroupId group) const EXCLUDES(mutex_);
  Usage& usage() noexcept { return usage_; }

 private:
  struct Group {
    PageHasher hasher;
    std::atomic<bool> exists;
    alignas(64) std::atomic<std::uint64_t> uses;  // written by who stores and drops, read by none
  };

  GroupTable(sys::Mapping file, sys::Mapping groups, Usage usage) noexcept;
  GroupsHead& head() const noexcept { return *file_.as<GroupsHead>(); }
  GroupEntry& entry(std::uint32_t i) const noexcept {
    return reinterpret_cast<GroupEntry*>(file_.data() + kPageSize)[i];
  }
  void begin(std::uint32_t i) noexcept;
  void wipe(std::uint32_t i) noexcept REQUIRES(mutex_);

  sys::Mapping file_;
  sys::Mapping group_memory_;
  Group* groups_;
  Usage usage_;
  std::vector<GroupId> found_;  // by open(), one use of each is held
  std::atomic<std::uint32_t> limit_{0};
  std::atomic<std::uint64_t> wiped_{0};
  mutable Mutex mutex_;
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace ramfold::store
