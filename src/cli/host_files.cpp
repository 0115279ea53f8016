// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/host_files.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <filesystem>

#include "sys/fd.hpp"

namespace ramfold::cli {
namespace {

// Holds /proc/PID/maps of a QEMU with as many mappings as the kernel allows.
constexpr std::size_t kFileMax = 16u << 20;
// memory.limit_in_bytes of an unlimited v1 group is just below 2^63.
constexpr std::uint64_t kUnlimitedV1 = std::uint64_t{1} << 60;
// Deeper hierarchies do not exist; bounds the work for a made-up path.
constexpr int kCgroupDepthMax = 64;
// LXD's -readconfig files have some KiB.
constexpr std::size_t kNamedMax = 1u << 20;

// The number of the process's descriptor that a path names.
std::optional<std::string> own_descriptor(std::string_view path) {
  if (path == "/dev/stdin") return "0";
  for (const std::string_view before : {"/dev/fd/", "/proc/self/fd/"}) {
    if (path.starts_with(before) && number_of(path.substr(before.size()))) {
      return std::string(path.substr(before.size()));
    }
  }
  return std::nullopt;
}

}  // namespace

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const auto end = text.find('\n');
    lines.push_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return lines;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (true) {
    const auto begin = line.find_first_not_of(" \t\n");
    if (begin == std::string_view::npos) return words;
    const auto end = line.find_first_of(" \t\n", begin);
    words.push_back(line.substr(begin, end - begin));
    if (end == std::string_view::npos) return words;
    line.remove_prefix(end);
  }
}

std::optional<std::uint64_t> number_of(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<HostFiles::Owner> HostFiles::owner(std::string_view path) const {
  struct stat entry{};
  if (::stat(at(path).c_str(), &entry) != 0) return std::nullopt;
  return Owner{entry.st_gid, entry.st_mode & 07777};
}

// In both files the first field is the name and the third the number.
std::string HostFiles::name_in(std::string_view file, std::uint64_t id) const {
  const std::string entries = text(file).value_or("");
  for (const std::string_view line : lines_of(entries)) {
    const auto name_end = line.find(':');
    const auto id_begin = line.find(':', name_end + 1);
    if (name_end == std::string_view::npos || id_begin == std::string_view::npos) continue;
    const auto id_end = line.find(':', id_begin + 1);
    if (number_of(line.substr(id_begin + 1, id_end - id_begin - 1)) == id) {
      return std::string(line.substr(0, name_end));
    }
  }
  return std::to_string(id);
}

std::string HostFiles::user_name(std::uint64_t uid) const { return name_in("/etc/passwd", uid); }
std::string HostFiles::group_name(std::uint64_t gid) const { return name_in("/etc/group", gid); }

bool HostFiles::exists(std::string_view path) const {
  return ::access(at(path).c_str(), F_OK) == 0;
}

std::optional<std::string> HostFiles::text(std::string_view path) const {
  // Non-blocking: a fifo in a foreign tree must not hold us.
  const sys::Fd fd(::open(at(path).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return std::nullopt;
  std::string text;
  std::string part(65536, '\0');
  while (text.size() < kFileMax) {
    const ssize_t n = ::read(fd.get(), part.data(), part.size());
    if (n < 0) return std::nullopt;
    if (n == 0) break;
    text.append(part, 0, static_cast<std::size_t>(n));
  }
  return text;
}

std::optional<std::string> HostFiles::word(std::string_view path) const {
  const auto whole = text(path);
  if (!whole) return std::nullopt;
  const auto begin = whole->find_first_not_of(" \t\n");
  if (begin == std::string::npos) return "";
  return whole->substr(begin, whole->find_last_not_of(" \t\n") - begin + 1);
}

std::optional<std::uint64_t> HostFiles::number(std::string_view path) const {
  const auto text = word(path);
  return text ? number_of(*text) : std::nullopt;
}

std::vector<std::string> HostFiles::names(std::string_view path) const {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entries(at(path), error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    names.push_back(entries->path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> HostFiles::chosen(std::string_view path) const {
  auto whole = word(path);
  if (!whole) return std::nullopt;
  const auto begin = whole->find('[');
  const auto end = whole->find(']');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return whole;
  return whole->substr(begin + 1, end - begin - 1);
}

std::vector<pid_t> HostFiles::processes() const {
  std::vector<pid_t> pids;
  for (const std::string& name : names("/proc")) {
    const auto pid = number_of(name);
    if (pid && *pid > 0 && *pid < (1u << 22)) pids.push_back(static_cast<pid_t>(*pid));
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

std::optional<std::string> HostFiles::of(pid_t pid, std::string_view file) const {
  return text("/proc/" + std::to_string(pid) + "/" + std::string(file));
}

std::vector<std::string> HostFiles::arguments(pid_t pid) const {
  std::vector<std::string> arguments;
  const auto whole = of(pid, "cmdline");
  if (!whole) return arguments;
  std::string_view rest = *whole;
  while (!rest.empty()) {
    const auto end = rest.find('\0');
    arguments.emplace_back(rest.substr(0, end));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  return arguments;
}

std::string HostFiles::link_of(pid_t pid, std::string_view link) const {
  const std::string path = at("/proc/" + std::to_string(pid) + "/" + std::string(link));
  std::string target(PATH_MAX, '\0');
  const ssize_t n = ::readlink(path.c_str(), target.data(), target.size());
  target.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return target;
}

Result<std::string> HostFiles::named_by(pid_t pid, const std::string& path) const {
  const std::string process = at("/proc/" + std::to_string(pid));
  sys::Fd found;
  if (const auto number = own_descriptor(path)) {
    found = sys::Fd(::open((process + "/fd/" + *number).c_str(), O_PATH | O_CLOEXEC));
  } else {
    // Links that the kernel makes (/proc/self) are not followed: they would lead to this process,
    // not to QEMU.
    const std::string whole = path.starts_with('/') ? path : link_of(pid, "cwd") + "/" + path;
    sys::Fd root(::open((process + "/root").c_str(), O_PATH | O_CLOEXEC | O_DIRECTORY));
    if (!root && errno == ENOENT && !root_.empty()) {  // a tree that was copied has no such link
      root.reset(::open(root_.c_str(), O_PATH | O_CLOEXEC | O_DIRECTORY));
    }
    if (!root) return fail_errno("not found");
    struct open_how how{};
    how.flags = O_PATH | O_CLOEXEC;
    how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    found = sys::Fd(
        static_cast<int>(::syscall(SYS_openat2, root.get(), whole.c_str(), &how, sizeof how)));
  }
  if (!found) return fail_errno("not found");
  struct stat facts{};
  if (::fstat(found.get(), &facts) != 0) return fail_errno("not found");
  if (!S_ISREG(facts.st_mode)) return fail("not a regular file");  // reading a pipe would empty it
  const sys::Fd file(
      ::open(("/proc/self/fd/" + std::to_string(found.get())).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return fail_errno("not readable");
  std::string text(kNamedMax + 1, '\0');
  const ssize_t n = ::pread(file.get(), text.data(), text.size(), 0);
  if (n < 0) return fail_errno("not readable");
  if (static_cast<std::size_t>(n) > kNamedMax) return fail("too long");
  text.resize(static_cast<std::size_t>(n));
  return text;
}

std::optional<HostFiles::MemoryLimit> HostFiles::memory_limit(pid_t pid, Limit limit) const {
  const auto groups = of(pid, "cgroup");
  if (!groups) return std::nullopt;
  std::optional<MemoryLimit> lowest;
  const auto look = [&](const std::string& path) {
    const auto bytes = number(path);  // "max" is no number
    if (!bytes || *bytes >= kUnlimitedV1) return;
    if (!lowest || ByteCount{*bytes} < lowest->bytes) lowest = MemoryLimit{path, ByteCount{*bytes}};
  };
  for (const std::string_view line : lines_of(*groups)) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && controllers.find("memory") == std::string_view::npos) continue;
    if (!v2 && limit == Limit::soft) continue;  // v1's soft limit holds nobody up
    std::string path(line.substr(second + 1));
    for (int depth = 0; depth < kCgroupDepthMax && path.size() > 1; ++depth) {
      look(v2 ? "/sys/fs/cgroup" + path + (limit == Limit::hard ? "/memory.max" : "/memory.high")
              : "/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes");
      path.resize(std::min(path.size() - 1, path.rfind('/')));
    }
  }
  return lowest;
}

}  // namespace ramfold::cli
