// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/subordinate_ids.hpp"

#include <algorithm>

#include "sys/procfs_text.hpp"

namespace ramfold::sys {
namespace {

constexpr ByteCount kFileMax{4u << 20};  // some 100,000 users

bool same(const struct stat& a, const struct stat& b) noexcept {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

uid_t SubordinateIds::account_of(uid_t uid) {
  refresh();
  const auto found =
      std::ranges::find_if(ranges_, [uid](const Range& r) { return r.ids.has(uid); });
  return found == ranges_.end() ? uid : found->account;
}

std::vector<IdRange> SubordinateIds::ids_of(uid_t account) {
  refresh();
  std::vector<IdRange> ids{{account, std::uint64_t{account} + 1}};
  for (const Range& range : ranges_) {
    if (range.account == account) ids.push_back(range.ids);
  }
  return ids;
}

void SubordinateIds::refresh() {
  struct stat now{};
  if (::stat(path_.c_str(), &now) != 0) now = {};
  if (same(now, seen_)) return;
  seen_ = now;
  ranges_.clear();
  const auto content = text::read_file(path_, kFileMax);
  if (!content) return;
  std::map<std::string_view, uid_t> accounts;
  for (std::string_view rest = *content; !rest.empty();) add(text::before(rest, '\n'), accounts);
}

// "name:first:count"
void SubordinateIds::add(std::string_view line, std::map<std::string_view, uid_t>& accounts) {
  const std::string_view name = text::before(line, ':');
  const auto first = text::number<uid_t>(text::before(line, ':'));
  const auto count = text::number<std::uint32_t>(line);
  if (name.empty() || !first || !count || *count == 0) return;
  const uid_t account = accounts.try_emplace(name, *first).first->second;
  ranges_.push_back({{*first, std::uint64_t{*first} + *count}, account});
}

}  // namespace ramfold::sys
