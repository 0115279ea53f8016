// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/table.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>

#include "base/check.hpp"
#include "sys/open_file.hpp"

namespace ramfold::keeper {
namespace {

// How systemd passes the name to the next keeper: kind, dot, name, colon.
std::size_t stored_bytes(std::string_view name) noexcept { return name.size() + 3; }

// The pid of a pidfd's process, from /proc/self/fdinfo. -1: the process is gone. 0: `pidfd` is no
// pidfd.
constexpr long kNoPidfd = 0;
long pid_of(int pidfd) noexcept {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", pidfd);
  const sys::Fd file(::open(path.data(), O_RDONLY | O_CLOEXEC));
  if (!file) return kNoPidfd;
  std::array<char, 1024> text{};
  const ssize_t n = ::read(file.get(), text.data(), text.size() - 1);
  if (n <= 0) return kNoPidfd;
  const char* line = std::strstr(text.data(), "\nPid:");
  return line == nullptr ? kNoPidfd : std::strtol(line + 5, nullptr, 10);
}

// Two open files may stand for the same thing: a memory file that was opened twice, two pidfds of
// one process. Only regular files are compared by inode, because anonymous files (userfaultfd;
// pidfds before Linux 6.9) all share one inode.
bool same_thing(const Entry& held, const Entry& candidate, sys::BorrowedFd fd) noexcept {
  const int a = held.fd.get();
  const int b = fd.get();
  if (sys::same_open_file(held.fd, fd)) return true;
  if (held.kind == Kind::watch) return pid_of(a) > 0 && pid_of(a) == pid_of(b);
  struct stat st{};
  if (::fstat(b, &st) != 0 || !S_ISREG(st.st_mode)) return false;
  return held.device == candidate.device && held.inode == candidate.inode &&
         (::fcntl(a, F_GETFL) & O_ACCMODE) == (::fcntl(b, F_GETFL) & O_ACCMODE);
}

std::unexpected<Error> refuse(std::string_view name, const char* why, int code) {
  return fail("'" + std::string(name) + "' " + why, code);
}

// Makes an entry without its descriptor.
Result<Entry> describe(const Item& item, sys::BorrowedFd fd) {
  ENSURE(item.name.size() <= kNameMax);
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("fstat");
  Entry entry;
  entry.kind = item.kind;
  entry.size = static_cast<std::uint8_t>(item.name.size());
  std::ranges::copy(item.name, entry.text);
  entry.device = st.st_dev;
  entry.inode = st.st_ino;
  return entry;
}

Status check_watch(std::string_view name, sys::BorrowedFd pidfd) {
  if (pid_of(pidfd.get()) == kNoPidfd) return refuse(name, "is no pidfd", EINVAL);
  if (process_ended(pidfd)) return refuse(name, "watches a process that has ended", ESRCH);
  return {};
}

}  // namespace

bool process_ended(sys::BorrowedFd pidfd) noexcept {
  pollfd p{pidfd.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & (POLLIN | POLLHUP)) != 0 &&
         pid_of(pidfd.get()) != kNoPidfd;
}

Table::Table(std::size_t entries_max) : entries_max_(entries_max) { entries_.reserve(entries_max); }

std::vector<Entry>::iterator Table::lower_bound(Kind kind, std::string_view name) noexcept {
  return std::ranges::lower_bound(entries_, std::tuple(kind, name), {},
                                  [](const Entry& e) { return std::tuple(e.kind, e.name()); });
}

Entry* Table::find(Kind kind, std::string_view name) noexcept {
  const auto it = lower_bound(kind, name);
  const bool found = it != entries_.end() && it->kind == kind && it->name() == name;
  return found ? &*it : nullptr;
}

// True: the table has this entry already. False: it is new.
Result<bool> Table::check(const Entry& candidate, sys::BorrowedFd fd) {
  const std::string_view name = candidate.name();
  if (candidate.kind == Kind::watch) {
    if (const Status ok = check_watch(name, fd); !ok) return std::unexpected(ok.error());
  }
  if (const Entry* held = find(candidate.kind, name)) {
    if (same_thing(*held, candidate, fd)) return true;
    return refuse(name, "is kept and is another file; drop it first", EEXIST);
  }
  for (const Entry& e : entries_) {
    if (e.device != candidate.device || e.inode != candidate.inode) continue;
    if (!sys::same_open_file(e.fd, fd)) continue;
    return refuse(name, ("is already kept as '" + std::string(e.name()) + "'").c_str(), EEXIST);
  }
  return false;
}

Status Table::check_room(std::span<const Entry> fresh) const {
  std::size_t bytes = name_bytes_;
  for (const Entry& e : fresh) bytes += stored_bytes(e.name());
  if (entries_.size() + fresh.size() > entries_max_) {
    return fail("the keeper is full: " + std::to_string(entries_max_) + " descriptors", ENOSPC);
  }
  if (bytes > kNameBytesMax) {
    return fail("the keeper is full: " + std::to_string(kNameBytesMax) + " bytes of names", ENOSPC);
  }
  return {};
}

Result<std::size_t> Table::keep(std::span<const Item> items, std::span<sys::Fd> fds) {
  ENSURE(items.size() == fds.size() && items.size() <= kBatchMax);
  std::array<Entry, kBatchMax> fresh{};
  std::array<std::size_t, kBatchMax> from{};  // fresh[i] is made from items[from[i]]
  std::size_t count = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    auto entry = describe(items[i], fds[i]);
    if (!entry) return std::unexpected(entry.error());
    for (std::size_t j = 0; j < i; ++j) {
      const bool same_name = items[j].kind == items[i].kind && items[j].name == items[i].name;
      if (same_name || sys::same_open_file(fds[j], fds[i])) {
        return refuse(items[i].name, "or its descriptor is twice in one request", EINVAL);
      }
    }
    const Result<bool> already = check(*entry, fds[i]);
    if (!already) return std::unexpected(already.error());
    if (*already) continue;
    from[count] = i;
    fresh[count++] = std::move(*entry);
  }
  if (const Status ok = check_room(std::span(fresh).first(count)); !ok) {
    return std::unexpected(ok.error());
  }
  for (std::size_t i = 0; i < count; ++i) {
    fresh[i].fd = std::move(fds[from[i]]);
    name_bytes_ += stored_bytes(fresh[i].name());
    entries_.insert(lower_bound(fresh[i].kind, fresh[i].name()), std::move(fresh[i]));
  }
  return count;
}

template <typename Predicate>
std::size_t Table::drop_where(const Predicate& matches, const Gone& gone) {
  const auto tail = std::ranges::remove_if(entries_, [&](Entry& e) {
    if (!matches(e)) return false;
    name_bytes_ -= stored_bytes(e.name());
    gone(e);
    e.fd.reset();
    return true;
  });
  const std::size_t count = tail.size();
  entries_.erase(tail.begin(), tail.end());
  return count;
}

std::size_t Table::drop(std::string_view name, const Gone& gone) {
  return drop_where([&](const Entry& e) { return e.kind == Kind::kept && e.name() == name; }, gone);
}

std::size_t Table::drop_prefix(std::string_view prefix, const Gone& gone) {
  ENSURE(valid_prefix(prefix));
  return drop_where([&](const Entry& e) { return e.name().starts_with(prefix); }, gone);
}

std::span<Entry> Table::entries_after(Kind kind, std::string_view name) noexcept {
  auto it = lower_bound(kind, name);
  if (it != entries_.end() && !name.empty() && it->kind == kind && it->name() == name) ++it;
  return {it, entries_.end()};
}

}  // namespace ramfold::keeper
