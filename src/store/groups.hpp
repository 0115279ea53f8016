// SPDX-License-Identifier: GPL-2.0-or-later
// The table of trust groups: name, id and hash seed, in a memory file of its own; and a count of
// the uses of each group.
//
// The life of a group. The count has one use for each GroupUse, one for each content, and, until
// recovery is over, one for each group that was found in the file. The thread that gives up the
// last use wipes name and seed. From then on the id may be given to another group. Nothing names
// the old group by then: only its contents and GroupUses did. Entries that its contents left in the
// index or the similarity index do no harm, because every finder checks the header of the content
// that has the id now.
//
// Threads: any. hasher() and add_use() take no lock. acquire() and the release of the last use take
// one: a leaf, never held over a system call.
// Invariants: a count leaves 0 only under the lock. An entry's checksum is right only after the
// entry is fully written, and is made wrong before the entry is wiped. So a process that is killed
// meanwhile leaves a damaged entry that nothing names, and recovery wipes it.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/thread_annotations.hpp"
#include "base/types.hpp"
#include "store/group.hpp"
#include "store/hash.hpp"
#include "store/layout.hpp"
#include "store/uncounted.hpp"
#include "store/usage.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class GroupTable {
 public:
  // A groups file without groups.
  static Result<sys::Fd> make_file(std::uint64_t store_id);
  // Holds every group in the file until end_recovery() lets go of it. REQUIRES: `file` stays open
  // while this object lives. An Error: the file is no table of this version, or of another store.
  static Result<std::shared_ptr<GroupTable>> open(sys::BorrowedFd file, std::uint64_t store_id);

  // Counts one more use of the group with this name; makes the group when there is none. Errors:
  // EINVAL the name is empty or too long; ENOSPC kGroupsMax groups are in use.
  Result<GroupId> acquire(std::string_view name) EXCLUDES(mutex_);
  // Counts one more use, for a content. False: there is no such group (a damaged header may name
  // any).
  bool add_use(GroupId group) noexcept;
  // Gives up one use, of a GroupUse or a content. REQUIRES: that use was counted.
  void release(GroupId group) noexcept EXCLUDES(mutex_);
  // All contents were counted: gives up the uses of open(), so groups without another use are
  // wiped. Keeps those of groups that `uncounted` covers for a later call. One caller.
  void end_recovery(const Uncounted& uncounted) noexcept;
  // From now on nothing is wiped, because another process is about to use the file.
  void close() noexcept EXCLUDES(mutex_);

  // nullptr when there is no such group.
  const PageHasher* hasher(GroupId group) const noexcept {
    if (group.value >= kGroupsMax) return nullptr;
    const Group& g = groups_[group.value];
    return g.exists.load(std::memory_order_acquire) ? &g.hasher : nullptr;
  }
  // All ids of groups are below this.
  std::uint32_t limit() const noexcept { return limit_.load(std::memory_order_acquire); }
  // How many groups were wiped so far. When this has grown, everything that was derived from a
  // group's seed may be void.
  std::uint64_t wiped() const noexcept { return wiped_.load(std::memory_order_acquire); }
  // Empty when there is no such group, or its entry is damaged.
  std::string name(GroupId group) const EXCLUDES(mutex_);
  // The number that the group's pool carries. Empty when there is no such group, or its entry is
  // damaged.
  std::optional<std::uint64_t> pool_id(GroupId group) const EXCLUDES(mutex_);
  Usage& usage() noexcept { return usage_; }

 private:
  struct Group {
    PageHasher hasher;
    std::atomic<bool> exists;
    alignas(64) std::atomic<std::uint64_t> uses;  // its own line: every put and free writes it
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
  std::vector<GroupId> found_;  // by open(), which holds a use of each
  std::atomic<std::uint32_t> limit_{0};
  std::atomic<std::uint64_t> wiped_{0};
  mutable Mutex mutex_{"Groups"};
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace ramfold::store
