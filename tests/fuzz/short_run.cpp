// SPDX-License-Identifier: GPL-2.0-or-later
// Runs a fuzz target without libFuzzer: random inputs for some seconds, so that every build and
// every run of the suite exercises it. fuzz_NAME [SECONDS [MAX_BYTES]]; RAMFOLD_SEED repeats a run.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 3;
  const auto bytes_max = static_cast<std::size_t>(argc > 2 ? std::atol(argv[2]) : 256);
  const char* given = std::getenv("RAMFOLD_SEED");
  const std::uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::printf("seed: RAMFOLD_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  const std::time_t end = std::time(nullptr) + static_cast<std::time_t>(seconds);
  std::uint64_t runs = 0;
  do {
    std::vector<std::uint8_t> input(random() % (bytes_max + 1));
    for (std::uint8_t& byte : input) byte = static_cast<std::uint8_t>(random());
    LLVMFuzzerTestOneInput(input.data(), input.size());
    ++runs;
  } while (std::time(nullptr) < end);
  std::printf("%llu inputs\n", static_cast<unsigned long long>(runs));
  return 0;
}
