// SPDX-License-Identifier: GPL-2.0-or-later
// The descriptors the keeper holds, by kind and name.
//
// Threads: one.
// Ownership: the table owns its descriptors. Entries that it returns are valid until the next
// change.
// Invariants: entries are sorted by (kind, name) and unique. No open file is held under two names:
// systemd's store keeps an open file once, so the second name would be lost with the keeper. There
// are at most kHeldMax entries and kNameBytesMax bytes of names. The vector of entries never grows
// after the constructor.
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
  dev_t device = 0;  // device and inode of the file, to compare descriptors cheaply
  ino_t inode = 0;
  sys::Fd fd;

  std::string_view name() const noexcept { return {text, size}; }
};

class Table {
 public:
  explicit Table(std::size_t entries_max);

  // Keeps all of `items`, or none; fds[i] belongs to items[i]. Returns the number of new entries,
  // whose descriptors were moved out of `fds`. An item that is held already, with the same file and
  // access mode, stays as it is, and its descriptor stays in `fds`. Errors: EEXIST the name is held
  // with another file, or the file under another name; ESRCH a watched process has already ended;
  // EINVAL a watch without a pidfd, or an item twice; ENOSPC the table is full.
  // REQUIRES: items.size() == fds.size(), names valid.
  Result<std::size_t> keep(std::span<const Item> items, std::span<sys::Fd> fds);

  // Remove entries and return how many. `gone` is called with each of them and may take its
  // descriptor; a descriptor that is not taken is closed.
  using Gone = std::function<void(Entry&)>;
  std::size_t drop(std::string_view name, const Gone& gone);
  std::size_t drop_prefix(std::string_view prefix, const Gone& gone);

  Entry* find(Kind kind, std::string_view name) noexcept;
  // Sorted. entries_after() begins behind the given key, which need not exist; with an empty name
  // it begins with the first entry of that kind.
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

// The process of the pidfd has ended; a zombie has ended, too. False for a descriptor that is no
// pidfd, although it may be readable.
bool process_ended(sys::BorrowedFd pidfd) noexcept;

}  // namespace ramfold::keeper
