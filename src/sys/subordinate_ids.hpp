// SPDX-License-Identifier: GPL-2.0-or-later
// Which user ids belong to one account: subuid(5). A user may run processes under every id of the
// ranges that /etc/subuid gives it (newuidmap(1)), so a bound for a user must count all of these
// ids together.
// Threads: one.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ramfold::sys {

struct IdRange {
  std::uint64_t first = 0;
  std::uint64_t end = 0;
  bool has(uid_t uid) const noexcept { return first <= uid && uid < end; }
};

class SubordinateIds {
 public:
  explicit SubordinateIds(std::string path = "/etc/subuid") : path_(std::move(path)) {}

  // The account of a user id: the same value for all ids in the ranges of one name; `uid` itself
  // when no range has it. Reads the file again when it has changed. A file that cannot be read
  // counts as one without ranges.
  uid_t account_of(uid_t uid);
  // All ids of that account.
  std::vector<IdRange> ids_of(uid_t account);

 private:
  struct Range {
    IdRange ids;
    uid_t account = 0;  // the first id of its name's first range
  };
  void refresh();
  void add(std::string_view line, std::map<std::string_view, uid_t>& accounts);

  const std::string path_;
  struct stat seen_{};
  std::vector<Range> ranges_;
};

}  // namespace ramfold::sys
