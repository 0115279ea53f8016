// SPDX-License-Identifier: GPL-2.0-or-later
// A tree of files that stands for / in tests of what is read from /proc and /sys. Removed at the
// end.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "sys/procfs.hpp"

namespace ramfold::test {

class FakeTree {
 public:
  FakeTree() {
    std::string pattern = (std::filesystem::temp_directory_path() / "ramfold-tree-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    root_ = pattern;
  }
  ~FakeTree() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  FakeTree(const FakeTree&) = delete;
  FakeTree& operator=(const FakeTree&) = delete;

  std::string root() const { return root_.string(); }
  void write(const std::string& path, const std::string& content) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path, std::ios::binary) << content;
  }
  void link(const std::string& path, const std::string& target) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::filesystem::remove(root_ / path);
    std::filesystem::create_symlink(target, root_ / path);
  }
  void remove(const std::string& path) const { std::filesystem::remove_all(root_ / path); }

 private:
  std::filesystem::path root_;
};

// Procfs over a tree; what a symbolic link of the tree cannot be (a device, a file system) is set
// here.
class FakeProcfs : public sys::Procfs {
 public:
  explicit FakeProcfs(const FakeTree& tree) : Procfs(tree.root()) {}

  Result<sys::FileStat> fd_stat(pid_t pid, int fd) const override {
    const auto found = stats.find({pid, fd});
    if (found == stats.end()) return fail("fake fd_stat", ESRCH);
    if (after_stat) after_stat(pid, fd);
    return found->second;
  }
  Result<std::uint64_t> fd_filesystem(pid_t pid, int fd) const override {
    const auto found = filesystems.find({pid, fd});
    if (found == filesystems.end()) return fail("fake fd_filesystem", ESRCH);
    return found->second;
  }

  Result<bool> has_large_folio(pid_t, HostVirt, ByteCount) const override {
    if (!frames_hold_large) return fail("fake frames", EPERM);
    return *frames_hold_large;
  }

  std::optional<bool> frames_hold_large;  // nothing: frame numbers are hidden
  std::map<std::pair<pid_t, int>, sys::FileStat> stats;
  std::function<void(pid_t, int)> after_stat;  // what happens while a process is looked at
  std::map<std::pair<pid_t, int>, std::uint64_t> filesystems;
};

}  // namespace ramfold::test
