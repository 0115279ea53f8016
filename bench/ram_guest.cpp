// SPDX-License-Identifier: GPL-2.0-or-later
// A process with RAM like QEMU's, for benches of the whole daemon. Run it under the agent
// (LD_PRELOAD).
// usage: bench_ram_guest GIB TOUCHERS
// Fills its RAM with pages of few distinct values (a quarter zeros), prints "ready", then reads
// commands:
//   read N     touch N random pages; prints "read N p50_us p99_us max_us"
//   wait       prints and forgets the longest access of the touchers, and the longest echo, since
//              the last: "wait max_us echo_us"
//   quit
// TOUCHERS threads touch a random page every millisecond and measure the time. As many other
// threads send through a pipe to a thread with the priority of the fault service, and measure the
// time until its answer: the wait that the machine alone causes.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/page_copy.hpp"
#include "bench/report.hpp"
#include "kernel/guest_process.hpp"
#include "sys/priority.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kDistinct = 4096;

std::byte* g_ram = nullptr;
std::uint64_t g_pages = 0;
std::atomic<std::uint64_t> g_longest_ns{0};
std::atomic<std::uint64_t> g_longest_echo_ns{0};

void note(std::atomic<std::uint64_t>& longest, std::uint64_t ns) {
  std::uint64_t seen = longest.load();
  while (ns > seen && !longest.compare_exchange_weak(seen, ns)) {
  }
}

std::uint64_t touch(std::uint64_t page) {
  const std::uint64_t began = monotonic_ns();
  (void)static_cast<volatile std::byte*>(g_ram)[page << kPageShift];
  return monotonic_ns() - began;
}

void toucher(unsigned seed) {
  std::mt19937_64 random(seed);
  for (;;) {
    note(g_longest_ns, touch(random() % g_pages));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void echo_asker() {
  int ask[2];
  int answer[2];
  if (::pipe2(ask, O_CLOEXEC) != 0 || ::pipe2(answer, O_CLOEXEC) != 0) return;
  std::thread([in = ask[0], out = answer[1]] {
    sys::prefer_this_thread();
    for (char c = 0; ::read(in, &c, 1) == 1 && ::write(out, &c, 1) == 1;) {
    }
  }).detach();
  for (char c = 0;;) {
    const std::uint64_t began = monotonic_ns();
    if (::write(ask[1], &c, 1) != 1 || ::read(answer[0], &c, 1) != 1) return;
    note(g_longest_echo_ns, monotonic_ns() - began);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  g_pages = std::strtoull(argv[1], nullptr, 10) << (30 - kPageShift);
  const auto touchers = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  const int fd = ::memfd_create("memory-backend-memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(g_pages << kPageShift)) != 0) return 1;
  (void)::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  void* at = ::mmap(nullptr, g_pages << kPageShift, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return 1;
  g_ram = static_cast<std::byte*>(at);
  std::vector<PageCopy> values(kDistinct);
  for (std::uint64_t i = 0; i < kDistinct; ++i) test::fill_page(i + 1, values[i].bytes.data());
  for (std::uint64_t p = 0; p < g_pages; ++p) {
    if (p % 4 == 0) {
      std::memset(g_ram + (p << kPageShift), 0, kPageSize);
    } else {
      std::memcpy(g_ram + (p << kPageShift), &values[p * 2654435761u % kDistinct], kPageSize);
    }
  }
  for (unsigned i = 0; i < touchers; ++i) {
    std::thread(toucher, i + 1).detach();
    std::thread(echo_asker).detach();
  }
  std::puts("ready");
  std::fflush(stdout);
  std::mt19937_64 random(99);
  for (char line[64]; std::fgets(line, sizeof line, stdin) != nullptr;) {
    std::uint64_t n = 0;
    if (std::sscanf(line, "read %" SCNu64, &n) == 1) {
      std::vector<double> us;
      for (std::uint64_t i = 0; i < n; ++i)
        us.push_back(static_cast<double>(touch(random() % g_pages)) / 1e3);
      std::printf("read %" PRIu64 " %.1f %.1f %.1f\n", n, bench::quantile(us, 0.5),
                  bench::quantile(us, 0.99), bench::quantile(us, 1));
    } else if (std::strncmp(line, "wait", 4) == 0) {
      std::printf("wait %.1f %.1f\n", static_cast<double>(g_longest_ns.exchange(0)) / 1e3,
                  static_cast<double>(g_longest_echo_ns.exchange(0)) / 1e3);
    } else if (std::strncmp(line, "quit", 4) == 0) {
      return 0;
    }
    std::fflush(stdout);
  }
  return 0;
}
