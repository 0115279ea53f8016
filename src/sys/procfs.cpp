// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/procfs.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <array>
#include <climits>
#include <memory>
#include <string>

#include "sys/procfs_text.hpp"

namespace ramfold::sys {
namespace {

struct CloseDir {
  void operator()(DIR* dir) const noexcept { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

// Calls `each` with the numeric names of a directory, at most `max`.
template <typename Each>
Seen numbers_in(const std::string& path, std::size_t max, Each&& each) {
  const Dir dir(::opendir(path.c_str()));
  if (!dir) return seen_of(errno);
  for (std::size_t count = 0;;) {
    errno = 0;
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) return errno == 0 ? Seen::all : seen_of(errno);
    const auto number = text::number<int>(entry->d_name);
    if (!number || *number < 0) continue;
    if (++count > max) return Seen::too_many;
    if (!each(::dirfd(dir.get()), entry->d_name, *number)) return Seen::all;
  }
}

// A file of /proc/PID that is not there means that the process is not there.
Error of_process(Error error) {
  if (error.code == ENOENT) error.code = ESRCH;
  return error;
}

}  // namespace

int errno_of(Seen seen) noexcept {
  switch (seen) {
    case Seen::all: return 0;
    case Seen::gone: return ESRCH;
    case Seen::too_many: return E2BIG;
    case Seen::denied: return EACCES;
    case Seen::failed: break;
  }
  return EIO;
}

Seen seen_of(int code) noexcept {
  switch (code) {
    case 0: return Seen::all;
    case ENOENT:
    case ESRCH: return Seen::gone;
    case E2BIG: return Seen::too_many;
    case EACCES:
    case EPERM: return Seen::denied;
    default: return Seen::failed;
  }
}

std::optional<MapEntry> parse_map_line(std::string_view line) noexcept {
  std::string_view range = text::word(line);
  const auto begin = text::number<std::uint64_t>(text::before(range, '-'), 16);
  const auto end = text::number<std::uint64_t>(range, 16);
  const std::string_view perms = text::word(line);
  const auto offset = text::number<std::uint64_t>(text::word(line), 16);
  std::string_view device = text::word(line);
  const auto major = text::number<unsigned>(text::before(device, ':'), 16);
  const auto minor = text::number<unsigned>(device, 16);
  const auto inode = text::number<ino_t>(text::word(line));
  if (!begin || !end || *begin >= *end || perms.size() != 4 || !offset || !major || !minor ||
      !inode) {
    return std::nullopt;
  }
  while (!line.empty() && text::is_blank(line.front())) line.remove_prefix(1);
  return MapEntry{.begin = HostVirt{*begin},
                  .end = HostVirt{*end},
                  .readable = perms[0] == 'r',
                  .writable = perms[1] == 'w',
                  .executable = perms[2] == 'x',
                  .shared = perms[3] == 's',
                  .offset = *offset,
                  .device = makedev(*major, *minor),
                  .inode = *inode,
                  .path = line};
}

std::optional<FdInfo> parse_fd_info(std::string_view content) noexcept {
  const auto flags = text::value_of(content, "flags:");
  if (!flags) return std::nullopt;
  const auto value = text::number<unsigned>(*flags, 8);
  if (!value) return std::nullopt;
  const auto mount = text::value_of(content, "mnt_id:");
  return FdInfo{.flags = *value, .mount = text::number<int>(mount.value_or("")).value_or(-1)};
}

Procfs::Procfs(std::string root) : root_(std::move(root)) {}

std::string Procfs::path_of(pid_t pid, std::string_view file) const {
  std::string path = root_ + "/proc/" + std::to_string(pid) + "/";
  return path.append(file);
}

Result<std::string> Procfs::read_process_file(pid_t pid, std::string_view file,
                                              ByteCount max) const {
  auto content = text::read_file(path_of(pid, file), max);
  if (!content) return std::unexpected(of_process(std::move(content.error())));
  return content;
}

Seen Procfs::mappings(pid_t pid, const MapVisitor& visit) const {
  auto lines = text::LineReader::open(path_of(pid, "maps"));
  if (!lines) return seen_of(lines.error().code);
  for (std::size_t count = 0;; ++count) {
    const auto line = lines->next();
    if (!line) return seen_of(line.error().code);
    if (!*line) return Seen::all;
    if (count == kMappingsMax) return Seen::too_many;
    const auto entry = parse_map_line(**line);
    if (!entry) return Seen::failed;
    if (!visit(*entry)) return Seen::all;
  }
}

Seen Procfs::smaps(pid_t pid, const SmapVisitor& visit) const {
  auto lines = text::LineReader::open(path_of(pid, "smaps"));
  if (!lines) return seen_of(lines.error().code);
  constexpr std::string_view kFlags = "VmFlags:";
  MapEntry current;
  std::string path;
  for (std::size_t count = 0;;) {
    const auto line = lines->next();
    if (!line) return seen_of(line.error().code);
    if (!*line) return Seen::all;
    if ((*line)->starts_with(kFlags)) {
      if (!visit(current, (*line)->substr(kFlags.size()))) return Seen::all;
    } else if (const auto entry = parse_map_line(**line)) {
      if (++count > kMappingsMax) return Seen::too_many;
      current = *entry;
      path = entry->path;
      current.path = path;
    }
  }
}

Seen Procfs::descriptors(pid_t pid, const FdVisitor& visit) const {
  std::array<char, PATH_MAX> link;
  return numbers_in(path_of(pid, "fd"), kDescriptorsMax,
                    [&](int dir, const char* name, int number) {
                      const ssize_t n = ::readlinkat(dir, name, link.data(), link.size() - 1);
                      if (n < 0)
                        return errno == ENOENT || visit(FdEntry{number, {}});  // closed meanwhile
                      return visit(FdEntry{number, {link.data(), static_cast<std::size_t>(n)}});
                    });
}

Seen Procfs::thread_ids(pid_t pid, const std::function<bool(pid_t)>& visit) const {
  return numbers_in(path_of(pid, "task"), kThreadsMax,
                    [&](int, const char*, int number) { return visit(number); });
}

Seen Procfs::processes(const std::function<bool(pid_t)>& visit) const {
  return numbers_in(root_ + "/proc", kProcessesMax,
                    [&](int, const char*, int number) { return visit(number); });
}

Result<std::string> own_link(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  std::array<char, PATH_MAX> link;
  const ssize_t n = ::readlink(path.c_str(), link.data(), link.size());
  if (n < 0) return fail_errno("readlink " + path);
  return std::string(link.data(), static_cast<std::size_t>(n));
}

Result<FdInfo> Procfs::fd_info(pid_t pid, int fd) const {
  // Flags and mount are the first lines; what follows may be long (an epoll's descriptors).
  auto lines = text::LineReader::open(path_of(pid, "fdinfo/" + std::to_string(fd)));
  if (!lines) return std::unexpected(of_process(std::move(lines.error())));
  std::string head;
  for (int i = 0; i < 4; ++i) {
    const auto line = lines->next();
    if (!line) return std::unexpected(of_process(line.error()));
    if (!*line) break;
    head.append(**line).push_back('\n');
  }
  const auto info = parse_fd_info(head);
  if (!info) return fail("fdinfo of a descriptor has no flags", EIO);
  return *info;
}

Result<FileStat> Procfs::fd_stat(pid_t pid, int fd) const {
  const std::string path = path_of(pid, "fd/" + std::to_string(fd));
  struct statx st{};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &st) != 0) {
    return std::unexpected(of_process(Error{"statx " + path, errno}));
  }
  return FileStat{.mode = st.stx_mode,
                  .device = makedev(st.stx_dev_major, st.stx_dev_minor),
                  .inode = st.stx_ino,
                  .special = makedev(st.stx_rdev_major, st.stx_rdev_minor)};
}

Result<std::uint64_t> Procfs::fd_filesystem(pid_t pid, int fd) const {
  const std::string path = path_of(pid, "fd/" + std::to_string(fd));
  struct statfs st{};
  if (::statfs(path.c_str(), &st) != 0) {
    return std::unexpected(of_process(Error{"statfs " + path, errno}));
  }
  return static_cast<std::uint64_t>(st.f_type);
}

Result<ProcessStatus> Procfs::status(pid_t pid) const {
  const auto content = read_process_file(pid, "status", kSmallFileMax);
  if (!content) return std::unexpected(content.error());
  std::string_view uids = text::value_of(*content, "Uid:").value_or("");
  const auto real = text::number<uid_t>(text::word(uids));
  const auto effective = text::number<uid_t>(text::word(uids));
  const auto threads =
      text::number<std::uint32_t>(text::value_of(*content, "Threads:").value_or(""));
  if (!real || !effective || !threads) return fail("/proc status is not understood", EIO);
  return ProcessStatus{
      .uid = *real,
      .effective_uid = *effective,
      .parent = text::number<pid_t>(text::value_of(*content, "PPid:").value_or("")).value_or(0),
      .locked = text::kilobytes_of(*content, "VmLck:"),
      .pinned = text::kilobytes_of(*content, "VmPin:"),
      .page_tables = text::kilobytes_of(*content, "VmPTE:"),
      .resident = text::kilobytes_of(*content, "VmRSS:"),
      .anonymous = text::kilobytes_of(*content, "RssAnon:"),
      .threads = *threads,
      .has_memory = text::value_of(*content, "VmSize:").has_value()};
}

Result<std::uint64_t> Procfs::start_ticks(pid_t pid) const {
  const auto content = read_process_file(pid, "stat", kSmallFileMax);
  if (!content) return std::unexpected(content.error());
  std::string_view rest = text::after_command(*content);
  const std::string_view state = text::word(rest);  // field 3
  if (state == "Z" || state == "X") return fail("the process has ended", ESRCH);
  for (int field = 4; field < 22; ++field) text::word(rest);
  const auto ticks = text::number<std::uint64_t>(text::word(rest));
  if (!ticks) return fail("/proc stat is not understood", EIO);
  return *ticks;
}

Result<std::string> Procfs::command(pid_t pid) const {
  auto content = read_process_file(pid, "comm", kSmallFileMax);
  if (content && content->ends_with('\n')) content->pop_back();
  return content;
}

Result<std::vector<std::string>> Procfs::arguments(pid_t pid) const {
  const auto content = read_process_file(pid, "cmdline", kCmdlineMax);
  if (!content) return std::unexpected(content.error());
  std::vector<std::string> arguments;
  for (std::string_view rest = *content; !rest.empty();) {
    arguments.emplace_back(text::before(rest, '\0'));
  }
  return arguments;
}

}  // namespace ramfold::sys
