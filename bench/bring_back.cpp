// SPDX-License-Identifier: GPL-2.0-or-later
// How fast memory comes back that a guest touches again: in a row, in clusters of 64 KiB, and at
// random. The peer is zram: swap with LZ4, the same bytes in shared memory of a process, as a
// guest's RAM file is, touched in the same order. The floor is ramfold without neighbours. The
// cores are not kept awake: with one core for all, a fault is two switches of context; across cores
// it is two interrupts that wake a core, or one where the fault thread is awake.
//
// usage: bench_bring_back [MIB]   a power of 2; 1024 unless RAM is short
#include "bench/fault_echo.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "bench/zram_swap.hpp"
#include "sys/procfs.hpp"

using namespace ramfold;
using bench::Placed;
using bench::Rig;
using test::GuestProcess;
using Order = GuestProcess::Order;

namespace {

constexpr int kRepeats = 5;
constexpr int kPasses = 40;

// A store whose contents never come along with a neighbour.
class OneByOne final : public store::ContentSource {
 public:
  explicit OneByOne(store::ContentSource& real) : real_(real) {}
  store::Got get(GroupId group, ContentId id, std::byte* out,
                 store::FetchTicket ticket) noexcept override {
    return real_.get(group, id, out, ticket);
  }
  store::Booked drop(GroupId group, ContentId id) noexcept override {
    return real_.drop(group, id);
  }

 private:
  store::ContentSource& real_;
};

struct Guest {
  Guest(std::uint64_t count, bool alone)
      : pages(count),
        contents(Rig::make_store()),
        one_by_one(*contents),
        rig(contents, 1, count, true, std::make_unique<guest::PinProof>(test::pin_test()),
            alone ? &one_by_one : nullptr) {
    for (std::uint64_t p = 0; p < pages; ++p) rig.process().store(PageIndex{p}, p + 1);
  }
  // Pages that the kernel has not sorted in yet stay for a few passes. Pages that come back soon
  // after they left would be left alone for longer each time; these were away for long.
  void fold() {
    for (int i = 0; i < kPasses && rig.folded() < pages; ++i) rig.pass();
    if (rig.folded() < pages * 99 / 100)
      std::fprintf(stderr, "only %lu of %lu pages are folded\n", rig.folded(), pages);
    for (int i = 0; i < kPasses; ++i) rig.vm().next_pass();
  }
  std::uint64_t events() {
    const guest::VmCounters& c = rig.vm().counters();
    return c.faults_content.get() + c.faults_zero.get();
  }

  std::uint64_t pages;
  std::shared_ptr<store::Contents> contents;
  OneByOne one_by_one;
  Rig rig;
};

struct Figures {
  std::vector<double> mb_s, p50_us, events, cpu_us, spun_us;
};

double mb_s(std::uint64_t pages, std::uint64_t ns) {
  return static_cast<double>(pages * kPageSize) / 1e6 / (static_cast<double>(ns) / 1e9);
}

void measure(Guest& guest, Order order, Figures& to) {
  guest.fold();
  const double folded = static_cast<double>(guest.rig.folded());
  const std::uint64_t events = guest.events();
  const std::uint64_t cpu = guest.rig.fault_cpu_ns();
  const std::uint64_t spun = guest.rig.vm().counters().spun_ns.get();
  const auto swept = guest.rig.process().sweep(order, PageCount{guest.pages});
  const auto came = static_cast<double>(guest.events() - events);
  to.mb_s.push_back(mb_s(guest.pages, swept.ns));
  to.p50_us.push_back(static_cast<double>(swept.median_ns) / 1e3);
  to.events.push_back(came / folded);
  to.cpu_us.push_back(static_cast<double>(guest.rig.fault_cpu_ns() - cpu) / 1e3 / folded);
  to.spun_us.push_back(static_cast<double>(guest.rig.vm().counters().spun_ns.get() - spun) / 1e3 /
                       folded);
}

void measure(const bench::SwappedMemory& memory, std::uint64_t pages, Order order, unsigned core,
             Figures& to) {
  const double out = memory.page_out();
  if (out < 0.98) std::fprintf(stderr, "only %.0f %% are in swap\n", 100 * out);
  bench::pin(0, core);
  const auto swept = test::sweep_memory(memory.get(), order, PageCount{pages});
  bench::pin(0, bench::kCore);
  to.mb_s.push_back(mb_s(pages, swept.ns));
  to.p50_us.push_back(static_cast<double>(swept.median_ns) / 1e3);
}

std::uint64_t available_mib() {
  const auto memory = sys::Procfs().memory_info();
  return memory ? memory->available.value >> 20 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1024;
  // Two guests, the peer's memory, two stores and the peer's swap, which compress to about half.
  while (mib > 64 && available_mib() < 6 * mib) mib /= 2;
  if (mib < 1024) std::fprintf(stderr, "%lu MiB for each guest, instead of 1024\n", mib);
  const std::uint64_t pages = mib << 8;
  const bench::ZramSwap zram(ByteCount{(mib + mib / 4) << 20});
  if (!zram.is_on())
    std::fprintf(stderr, "no zram to swap to: no peer\n");
  else
    std::fprintf(stderr, "zram: %s\n", zram.algorithm().c_str());

  bench::pin(0, bench::kCore);
  Guest guest(pages, false), alone(pages, true);
  const bench::SwappedMemory memory{PageCount{pages}};
  for (std::uint64_t p = 0; p < pages; ++p)
    test::fill_page(p + 1, memory.get() + (p << kPageShift));

  bench::Report report("bring-back");
  for (const Placed placed : {Placed::together, Placed::apart}) {
    const std::string where = placed == Placed::together ? "" : ", core to core";
    bench::pin_guest(guest.rig.process(), placed);
    bench::pin_guest(alone.rig.process(), placed);
    for (const Order order : {Order::in_a_row, Order::clusters, Order::at_random}) {
      Figures ours, single, peer;
      for (int r = 0; r < kRepeats; ++r) {
        measure(guest, order, ours);
        measure(alone, order, single);
        if (zram.is_on()) {
          measure(memory, pages, order,
                  placed == Placed::together ? bench::kCore : bench::kCore + 1, peer);
        }
      }
      const std::string name = (order == Order::in_a_row   ? "in a row"
                                : order == Order::clusters ? "clusters"
                                                           : "at random") +
                               where;
      const bool random = order == Order::at_random;
      const auto goal = [&](const char* words, bool met, bool counts) {
        return std::pair{std::string(counts ? words : ""),
                         counts ? std::optional(met) : std::nullopt};
      };
      const auto fast = goal(">= 2x peer", bench::median_ratio(ours.mb_s, peer.mb_s) >= 2,
                             !random && zram.is_on());
      report.add({name, "MB/s", single.mb_s, ours.mb_s, peer.mb_s, fast.first, fast.second});
      const auto few = goal("<= 1/8", bench::median(ours.events) <= 0.125, !random);
      report.add(
          {name + ", events a page", "", single.events, ours.events, {}, few.first, few.second});
      if (random) {
        report.add({name + ", p50", "us", single.p50_us, ours.p50_us, peer.p50_us, "<= 1.05x floor",
                    bench::median_ratio(ours.p50_us, single.p50_us) <= 1.05});
        const auto near = goal("<= 1.3x peer", bench::median_ratio(ours.p50_us, peer.p50_us) <= 1.3,
                               zram.is_on() && placed == Placed::apart);
        report.add({name + ", p50 beside zram",
                    "us",
                    {},
                    ours.p50_us,
                    peer.p50_us,
                    near.first,
                    near.second});
      }
      report.add(
          {name + ", CPU of the fault thread a page", "us", single.cpu_us, ours.cpu_us, {}, ""});
      report.add(
          {name + ", of it awake for the next event", "us", single.spun_us, ours.spun_us, {}, ""});
    }
  }
  return report.print();
}
