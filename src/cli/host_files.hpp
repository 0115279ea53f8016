// SPDX-License-Identifier: GPL-2.0-or-later
// The files of /proc, /sys and /run that `ramfold doctor` reads, below a root directory: "" for
// this host, or a tree of a test or of a support case (--root). Nothing else in the doctor opens a
// file. Threads: immutable.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"

namespace ramfold::cli {

class HostFiles {
 public:
  explicit HostFiles(std::string root) : root_(std::move(root)) {}

  // Where `path` is on disk.
  std::string at(std::string_view path) const { return root_ + std::string(path); }
  bool exists(std::string_view path) const;
  // At most kFileMax bytes; absent when it cannot be read.
  std::optional<std::string> text(std::string_view path) const;
  // Without the blanks around it.
  std::optional<std::string> word(std::string_view path) const;
  std::optional<std::uint64_t> number(std::string_view path) const;
  // Names in a directory, sorted; empty when it cannot be read.
  std::vector<std::string> names(std::string_view path) const;
  struct Owner {
    gid_t group;
    mode_t mode;
  };
  std::optional<Owner> owner(std::string_view path) const;
  // By /etc/passwd or /etc/group; the number where those do not know it.
  std::string user_name(std::uint64_t uid) const;
  std::string group_name(std::uint64_t gid) const;

  // The word in brackets: "always [never]" is "never"; the whole when there is none.
  std::optional<std::string> chosen(std::string_view path) const;
  std::vector<pid_t> processes() const;
  std::optional<std::string> of(pid_t pid, std::string_view file) const;
  std::vector<std::string> arguments(pid_t pid) const;
  // The target of a link of the process, such as exe; empty when it cannot be read.
  std::string link_of(pid_t pid, std::string_view link) const;
  // A file that is named on the process's command line, as the process would find it: from its own
  // root and working directory. Only regular files are read, up to 1 MiB.
  Result<std::string> named_by(pid_t pid, const std::string& path) const;
  // Lowest limit of memory (of a v2 or v1 cgroup, any ancestor) that holds for a process. Beyond a
  // hard one the kernel kills; beyond a soft one (memory.high) it holds the process up.
  enum class Limit : std::uint8_t { hard, soft };
  struct MemoryLimit {
    std::string path;
    ByteCount bytes;
  };
  std::optional<MemoryLimit> memory_limit(pid_t pid, Limit limit) const;

 private:
  std::string name_in(std::string_view file, std::uint64_t id) const;

  std::string root_;
};

// The lines of `text` without their newlines; blank-separated words of a line. Views into it: no
// temporary.
std::vector<std::string_view> lines_of(std::string_view text);
std::vector<std::string_view> lines_of(std::string&& text) = delete;
std::vector<std::string_view> words_of(std::string_view line);
std::vector<std::string_view> words_of(std::string&& line) = delete;
std::optional<std::uint64_t> number_of(std::string_view text);

}  // namespace ramfold::cli
