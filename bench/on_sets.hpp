// SPDX-License-Identifier: GPL-2.0-or-later
// The command line of the programs that measure on sets of bench/corpus.
// Threads: one.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace ramfold::bench {

struct NamedSet {
  std::string name;
  std::string directory;
};

// NAME SET_DIRECTORY [NAME SET_DIRECTORY]...; returns the result of `run`; 2 if it throws or the
// arguments are wrong.
inline int run_on_sets(int argc, char** argv,
                       const std::function<int(const std::vector<NamedSet>&)>& run) {
  if (argc < 3 || argc % 2 == 0) {
    std::fprintf(stderr, "usage: %s NAME SET_DIRECTORY [NAME SET_DIRECTORY]...\n", argv[0]);
    return 2;
  }
  std::vector<NamedSet> sets;
  for (int i = 1; i + 1 < argc; i += 2) sets.push_back({argv[i], argv[i + 1]});
  try {
    return run(sets);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "%s: %s\n", argv[0], problem.what());
    return 2;
  }
}

}  // namespace ramfold::bench
