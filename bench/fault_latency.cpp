// SPDX-License-Identifier: GPL-2.0-or-later
// How long a guest thread waits for a folded page, against a bare userfaultfd echo: a thread that
// answers every event with one UFFDIO_COPY and does nothing else. The cores are kept awake for
// both.
#include <atomic>
#include <thread>

#include "base/clock.hpp"
#include "bench/awake.hpp"
#include "bench/fault_echo.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "sys/priority.hpp"

using namespace ramfold;
using bench::Placed;
using bench::Rig;
using bench::Times;

namespace {

constexpr std::uint64_t kPages = 1500;
constexpr int kRepeats = 7;
// Longer than a fault thread stays at a VM without events (fault/pool).
constexpr std::chrono::milliseconds kQuiet{300};
constexpr std::uint64_t kQuietPages = 20;
constexpr int kQuietRepeats = 3;
constexpr std::uint64_t kBusyPages = 8192;  // of the VM that is folded meanwhile

enum class Kind { zero, shared, lz4 };

Times folded(Kind kind, Placed placed, std::uint64_t pages = kPages,
             std::chrono::milliseconds pause = {}) {
  Rig rig(Rig::make_store(), 1, pages);
  for (std::uint64_t p = 0; p < pages; ++p) {
    rig.process().store(PageIndex{p}, kind == Kind::zero     ? 0
                                      : kind == Kind::shared ? p % 4 + 1
                                                             : p + 1);
  }
  rig.pass();
  rig.pass();
  bench::pin_guest(rig.process(), placed);
  if (rig.folded() != pages)
    std::fprintf(stderr, "only %lu of %lu pages are folded\n", rig.folded(), pages);
  return bench::touch_all(rig.process(), pages, pause);
}

// Something to fold for ever, at a quarter of a core (scan.cpu's default): a writer keeps changing
// it.
class Folding {
 public:
  Folding() : rig_(Rig::make_store(), 2, kBusyPages) {
    thread_ = std::thread([this] {
      sys::yield_this_thread();  // as the daemon's workers
      std::uint64_t seed = 1;
      while (!stop_) {
        for (std::uint64_t p = 0; p < kBusyPages && !stop_; p += 16)
          rig_.process().store(PageIndex{p}, ++seed);
        const std::uint64_t began = thread_cpu_ns();
        rig_.pass();
        rig_.pass();
        const std::uint64_t used = thread_cpu_ns() - began;
        std::this_thread::sleep_for(std::chrono::nanoseconds(3 * used));
      }
    });
  }
  ~Folding() {
    stop_ = true;
    thread_.join();
  }

 private:
  Rig rig_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace

int main() {
  const bench::Awake awake;
  bench::pin(0, bench::kCore);
  bench::Report report("fault-latency");
  for (const Placed placed : {Placed::together, Placed::apart}) {
    const std::string where = placed == Placed::together ? "" : ", core to core";
    std::vector<double> floor50, floor99, busy99;
    std::array<std::vector<double>, 3> p50, p99;
    for (int r = 0; r < kRepeats; ++r) {
      const Times floor = bench::echo(placed, kPages);
      floor50.push_back(floor.p50);
      floor99.push_back(floor.p99);
      for (const Kind kind : {Kind::zero, Kind::shared, Kind::lz4}) {
        const Times t = folded(kind, placed);
        p50[static_cast<std::size_t>(kind)].push_back(t.p50);
        p99[static_cast<std::size_t>(kind)].push_back(t.p99);
      }
      const Folding folding;
      busy99.push_back(folded(Kind::lz4, placed).p99);
    }
    const std::array names{"zero", "shared", "lz4"};
    for (std::size_t k = 0; k < 3; ++k) {
      report.add({names[k] + (" p50" + where),
                  "us",
                  floor50,
                  p50[k],
                  {},
                  "<= 1.2x floor",
                  bench::median_ratio(p50[k], floor50) <= 1.2});
      report.add({names[k] + (" p99" + where),
                  "us",
                  floor99,
                  p99[k],
                  {},
                  "<= 2x floor",
                  bench::median_ratio(p99[k], floor99) <= 2});
    }
    std::vector<double> quiet_floor, quiet;
    for (int r = 0; r < kQuietRepeats; ++r) {
      quiet_floor.push_back(bench::echo(placed, kQuietPages, kQuiet).p50);
      quiet.push_back(folded(Kind::lz4, placed, kQuietPages, kQuiet).p50);
    }
    report.add({"lz4 p50, the first of a quiet VM" + where,
                "us",
                quiet_floor,
                quiet,
                {},
                "<= 2x floor",
                bench::median_ratio(quiet, quiet_floor) <= 2});
    report.add({"lz4 p99 while folding" + where,
                "us",
                floor99,
                busy99,
                {},
                "<= 4x idle floor",
                bench::median_ratio(busy99, floor99) <= 4});
  }
  return report.print();
}
