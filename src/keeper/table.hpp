// SPDX-License-Identifier: GPL-2.0-or-later
// The descriptors the keeper holds, by kind and name.
//
// Threads: one.
// Ownership: the table owns its descriptors; what it hands out is borrowed until the next change.
// Invariants: entries are sorted by (kind, name) and unique; no open file is held under two names
// (systemd's store keeps an open file once, so the second name would be lost with the keeper); at
// most kHeldMax entries and kNameBytesMax bytes of names. Nothing is allocated after the
// constructor.
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "keeper/protocol.hpp"
#include "sys/fd.hpp"

namespace ramfold::keeper {

struct Entry {
  Kind kind = Kind::kept;
  bool backed = false;  // systemd's store has it too
  std::uint8_t size = 0;
  char text[kNameMax]{};
  dev_t device = 0;  // which file it is, to tell descriptors apart cheaply
  ino_t inode = 0;
  sys::Fd fd;

  std::string_view name() const noexcept { return {text, size}; }
};

class Table {
 public:
  explicit Table(std::size_t entries_max);

  // Keeps all of `items`, or none. A name that is already there with the same file (and access
  // mode) stays as it is; with another file the error is EEXIST. ESRCH: a watched process has
  // already ended; ENOSPC: full. On success the descriptors were moved out of `fds` (one an item;
  // the ones not needed are left there) and the number of new entries is returned.
  // REQUIRES: items.size() == fds.size(), names valid.
  Result<std::size_t> keep(std::span<const Item> items, std::span<sys::Fd> fds);

  // `gone` is called with each entry, whose descriptor it may take; else it is closed. They return
  // how many went.
  using Gone = std::function<void(Entry&)>;
  std::size_t drop(std::string_view name, const Gone& gone);
  std::size_t drop_prefix(std::string_view prefix, const Gone& gone);

  Entry* find(Kind kind, std::string_view name) noexcept;
  // Sorted. `entries_after` begins behind the given key, which need not exist; no name: at the
  // start.
  std::span<Entry> entries() noexcept { return entries_; }
  std::span<Entry> entries_after(Kind kind, std::string_view name) noexcept;
  std::span<Entry> watches() noexcept { return entries_after(Kind::watch, {}); }
  std::size_t size() const noexcept { return entries_.size(); }
  std::size_t entries_max() const noexcept { return entries_max_; }

 private:
  std::vector<Entry>::iterator lower_bound(Kind kind, std::string_view name) noexcept;
  Result<bool> check(const Entry& candidate, sys::BorrowedFd fd);
  Status check_room(std::span<const Entry> fresh) const;
  template <typename Predicate>
  std::size_t drop_where(const Predicate& matches, const Gone& gone);

  std::size_t entries_max_;
  std::size_t name_bytes_ = 0;
  std::vector<Entry> entries_;
};

// The process of a pidfd has ended (a zombie counts as ended); false for what is no pidfd, which is
// always readable and must not look like a death.
bool process_ended(sys::BorrowedFd pidfd) noexcept;

}  // namespace ramfold::keeper
