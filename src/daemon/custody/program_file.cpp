// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/program_file.hpp"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>
#include <utility>

namespace ramfold::daemon {
namespace {

std::string path_of_this() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

}  // namespace

ProgramFile::ProgramFile() : ProgramFile(path_of_this()) {}

ProgramFile::ProgramFile(std::string path) : path_(std::move(path)) {
  struct stat st{};
  if (::stat(path_.c_str(), &st) != 0) return;
  device_ = st.st_dev;
  inode_ = st.st_ino;
}

bool ProgramFile::was_replaced() const {
  struct stat st{};
  if (inode_ == 0 || ::stat(path_.c_str(), &st) != 0) return false;
  return st.st_dev != device_ || st.st_ino != inode_;
}

}  // namespace ramfold::daemon
