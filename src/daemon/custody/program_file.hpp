// SPDX-License-Identifier: GPL-2.0-or-later
// The file of the running program: has another version been installed in its place?
// Threads: one.
#pragma once

#include <sys/types.h>

#include <string>

namespace ramfold::daemon {

class ProgramFile {
 public:
  // Of this process.
  ProgramFile();
  // Of a program that runs from `path`.
  explicit ProgramFile(std::string path);
  // False also when there is no file in its place, or the file is not known.
  bool was_replaced() const;

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace ramfold::daemon
