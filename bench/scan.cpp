// SPDX-License-Identifier: GPL-2.0-or-later
// The speed of observing: GB/s of one core, against a bare loop of pread and XXH3 over the same
// pages.
#include <thread>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/clock.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kPages = 65'536;  // 256 MiB
constexpr int kRepeats = 7;
constexpr std::uint64_t kRun = 16;

double gigabytes_a_second(std::uint64_t pages, std::uint64_t ns) {
  return static_cast<double>(pages << kPageShift) / static_cast<double>(ns);
}

}  // namespace

int main() {
  bench::Rig rig(bench::Rig::make_store(), 1, kPages);
  for (std::uint64_t p = 0; p < kPages; ++p) rig.process().store(PageIndex{p}, p + 1);
  std::vector<double> floor, ours;
  const auto buffer = std::make_unique<std::array<std::byte, kRun * kPageSize>>();
  std::uint64_t sum = 0;
  for (int r = 0; r < kRepeats; ++r) {
    std::uint64_t began = thread_cpu_ns();
    for (std::uint64_t p = 0; p < kPages; p += kRun) {
      (void)rig.vm().read_pages({PageIndex{p}, PageCount{kRun}}, buffer->data());
      for (std::uint64_t i = 0; i < kRun; ++i)
        sum += XXH3_64bits_withSeed(buffer->data() + i * kPageSize, kPageSize, 7);
    }
    floor.push_back(gigabytes_a_second(kPages, thread_cpu_ns() - began));
    began = thread_cpu_ns();
    rig.observe_all();
    ours.push_back(gigabytes_a_second(kPages, thread_cpu_ns() - began));
  }
  bench::Report report("scan");
  report.add({"observe",
              "GB/s per core",
              floor,
              ours,
              {},
              ">= 0.8x floor",
              bench::median_ratio(ours, floor) >= 0.8});
  if (sum == 0) std::fprintf(stderr, "the floor hashed nothing\n");
  return report.print();
}
