// SPDX-License-Identifier: GPL-2.0-or-later
// How long a guest thread waits for a folded page, against a bare userfaultfd echo: a thread that
// answers every event with one UFFDIO_COPY and does nothing else. The cores are kept awake, for
// both.
#include <poll.h>
#include <atomic>
#include <thread>

#include "base/clock.hpp"
#include "bench/awake.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "sys/memory.hpp"
#include "sys/priority.hpp"

using namespace ramfold;
using bench::Rig;

namespace {

constexpr std::uint64_t kPages = 1500;
constexpr int kRepeats = 7;
constexpr std::uint64_t kBusyPages = 8192;  // of the VM that is folded meanwhile

struct Times {
  double p50 = 0;
  double p99 = 0;
};

// The guest's core and that of everything else. Where they meet, a fault is two switches of context
// and the rest is work; across cores most of it is the wake-up of the other core, in a VM a way
// through the host.
enum class Placed { together, apart };
constexpr unsigned kCore = 1;

void pin(pid_t pid, unsigned core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core % std::thread::hardware_concurrency(), &set);
  (void)::sched_setaffinity(pid, sizeof set, &set);
}

Times touch_all(test::GuestProcess& process) {
  std::vector<double> us;
  for (std::uint64_t p = 0; p < kPages; ++p)
    us.push_back(static_cast<double>(process.read_ns(PageIndex{p * 7 % kPages})) / 1e3);
  return {bench::quantile(us, 0.5), bench::quantile(us, 0.99)};
}

void pin_guest(const test::GuestProcess& process, Placed placed) {
  pin(process.pid(), placed == Placed::together ? kCore : kCore + 1);
}

Times echo(Placed placed) {
  const auto process = test::GuestProcess::start(PageCount{kPages});
  const sys::Uffd uffd{sys::BorrowedFd(process->uffd())};
  (void)uffd.handshake(sys::Uffd::kFeaturesNeeded);
  const sys::UffdRange all{process->base(), bytes(PageCount{kPages})};
  for (std::uint64_t p = 0; p < kPages; ++p) process->store(PageIndex{p}, p + 1);
  (void)uffd.register_range(all);
  // Holes as a fold leaves them.
  (void)uffd.guard(all);
  (void)sys::punch(sys::BorrowedFd(process->ram()), ByteCount{0}, all.size);
  pin_guest(*process, placed);
  std::atomic<bool> stop{false};
  std::thread server([&] {
    sys::prefer_this_thread();  // as the fault service
    PageCopy page{};
    std::array<uffd_msg, 64> events;
    while (!stop) {
      pollfd p{uffd.fd(), POLLIN, 0};
      (void)::poll(&p, 1, 100);
      const auto n = uffd.read_events(events);
      for (std::size_t i = 0; n && i < *n; ++i) {
        const HostVirt at{events[i].arg.pagefault.address & ~(kPageSize - 1)};
        (void)uffd.copy(at, page.bytes.data(), ByteCount{kPageSize}, sys::Guard::no,
                        sys::Wake::yes);
      }
    }
  });
  const Times times = touch_all(*process);
  stop = true;
  server.join();
  return times;
}

enum class Kind { zero, shared, lz4 };

Times folded(Kind kind, Placed placed) {
  Rig rig(Rig::make_store(), 1, kPages);
  for (std::uint64_t p = 0; p < kPages; ++p) {
    rig.process().store(PageIndex{p}, kind == Kind::zero     ? 0
                                      : kind == Kind::shared ? p % 4 + 1
                                                             : p + 1);
  }
  rig.pass();
  rig.pass();
  pin_guest(rig.process(), placed);
  if (rig.folded() != kPages)
    std::fprintf(stderr, "only %lu of %lu pages are folded\n", rig.folded(), kPages);
  return touch_all(rig.process());
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
  pin(0, kCore);
  bench::Report report("fault-latency");
  for (const Placed placed : {Placed::together, Placed::apart}) {
    const std::string where = placed == Placed::together ? "" : ", core to core";
    std::vector<double> floor50, floor99, busy99;
    std::array<std::vector<double>, 3> p50, p99;
    for (int r = 0; r < kRepeats; ++r) {
      const Times floor = echo(placed);
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
