// SPDX-License-Identifier: GPL-2.0-or-later
// A bar on stderr for work whose length is known; nothing where stderr is not a terminal.
// Threads: one owner.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace ramfold::cli {

// "[#####.....]  43 %, 12 s left"; the time is left out while too little is known of it.
std::string progress_bar(std::uint64_t done, std::uint64_t total, double elapsed_s);

class Progress {
 public:
  // `total` in any unit; 0 is taken for 1.
  Progress(std::FILE* out, bool terminal, std::uint64_t total);
  ~Progress();  // takes the bar away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(std::uint64_t by);

 private:
  std::FILE* out_;
  const bool terminal_;
  const std::uint64_t total_;
  const std::uint64_t began_ns_;
  std::uint64_t done_ = 0;
  std::uint64_t drawn_ns_ = 0;
};

}  // namespace ramfold::cli
