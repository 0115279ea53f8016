// SPDX-License-Identifier: GPL-2.0-or-later
// The table of trust groups: name, id and hash seed, in a memory file of its own.
// Threads: find_or_make() from any thread; hasher() takes no lock.
// Invariant: an entry below count() never changes.
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
#include "store/hash.hpp"
#include "store/layout.hpp"
#include "sys/fd.hpp"
#include "sys/memory.hpp"

namespace ramfold::store {

class GroupTable {
 public:
  static Result<sys::Fd> make_file(std::uint64_t store_id);
  // REQUIRES: `file` stays open while this lives. Errors: not a table of this version or store.
  static Result<std::unique_ptr<GroupTable>> open(sys::BorrowedFd file, std::uint64_t store_id);

  Result<GroupId> find_or_make(std::string_view name);
  // nullptr when there is no such group (a corrupt header may name any).
  const PageHasher* hasher(GroupId group) const noexcept {
    return group.value < count_.load(std::memory_order_acquire) ? &hashers_[group.value] : nullptr;
  }
  std::uint32_t count() const noexcept { return count_.load(std::memory_order_acquire); }
  // Empty when the entry is damaged.
  std::string name(GroupId group) const;

 private:
  GroupTable(sys::Mapping file, sys::Mapping hashers) noexcept;
  GroupsHead& head() const noexcept { return *file_.as<GroupsHead>(); }
  GroupEntry* entries() const noexcept {
    return reinterpret_cast<GroupEntry*>(file_.data() + kPageSize);
  }

  sys::Mapping file_;
  sys::Mapping hasher_memory_;
  PageHasher* hashers_;
  std::atomic<std::uint32_t> count_{0};
  Mutex mutex_;  // one maker at a time
};

}  // namespace ramfold::store
