// SPDX-License-Identifier: GPL-2.0-or-later
// usage: bench_peers SET_DIRECTORY   prints bench/peers.hpp's figures as JSON. Threads: one.
#include "bench/peers.hpp"

#include <cstdio>

using namespace ramfold::bench;

namespace {

void run(const std::string& directory) {
  const GuestPages set = load_set(directory);
  const Peers peers = peers_of(set);
  std::printf("{\"nonzero_pages\": %llu, \"ksm\": %.2f, \"sharing_lz4\": %.2f, \"lz4\": %.2f}\n",
              static_cast<unsigned long long>(set.nonzero_count), peers.ksm, peers.sharing_lz4,
              peers.lz4);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s SET_DIRECTORY\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1]);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "bench_peers: %s\n", problem.what());
    return 2;
  }
  return 0;
}
