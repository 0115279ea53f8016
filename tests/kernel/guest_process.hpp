// SPDX-License-Identifier: GPL-2.0-or-later
// A process with RAM of its own, for tests that fold it without an agent: it maps a memory file,
// makes a userfaultfd, hands both over, and then does what the test tells it: store, load, discard.
// Threads: the test's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "guest/vm.hpp"
#include "sys/fd.hpp"

namespace ramfold::test {

class GuestProcess {
 public:
  // A child with `pages` pages of RAM, all holes.
  static std::unique_ptr<GuestProcess> start(PageCount pages);
  ~GuestProcess();  // kills and reaps the child

  // Files and record for guest::Vm::make.
  std::unique_ptr<guest::Vm> make_vm(std::uint32_t id);
  // What that is made of, but for a record's file and a pidfd, which only a keeper needs.
  guest::Vm::Files files_for(std::uint32_t id, guest::VmRecord& record);
  pid_t pid() const noexcept { return pid_; }
  int ram() const noexcept { return ram_.get(); }

  // Ask the child; each waits for its answer, but ask()/answer() may be used apart to let it wait
  // in a fault.
  enum class Op : std::uint32_t {
    store,
    store_run,
    load,
    discard,
    forget,
    zero,
    load_apart,
    store_apart,
    collect,
    map_over,
    read_ns,
    write_ns,
    sweep,
    sweep_median,
    quit
  };
  void ask(Op op, PageIndex p, std::uint64_t seed, std::uint32_t count = 0);
  // Loads: the sum of the page's bytes as checksum(seed) would give. False: no answer within `ms`,
  // or the child has ended, be it before it was asked (a full memory cgroup can do that).
  bool answer(std::uint64_t& value, int ms);
  void store(PageIndex p, std::uint64_t seed);
  // Page p + i gets seed + i.
  void store_run(PageIndex p, std::uint64_t seed, std::uint32_t count);
  std::uint64_t load(PageIndex p);
  void discard(PageIndex p);
  // Its entries in the page table go; the RAM file keeps the pages, and guards stay.
  void forget(PageIndex p, std::uint32_t count);
  // Each of `count` pages is read, or written for `seed`, by a thread of its own; collect() waits
  // for them all and tells the sum of what the reads gave. Nothing when some still wait after `ms`.
  void load_apart(PageIndex p, std::uint32_t count);
  void store_apart(PageIndex p, std::uint64_t seed);
  std::optional<std::uint64_t> collect(int ms);
  // Maps other memory over the page; whoever waits for it must be woken (D8).
  void map_over(PageIndex p);
  // Nanoseconds that touching one byte of p took the child.
  std::uint64_t read_ns(PageIndex p) { return timed(Op::read_ns, p); }
  std::uint64_t write_ns(PageIndex p) { return timed(Op::write_ns, p); }
  // Reads a byte of each of the first `pages` pages, in this order: how long it took, and the
  // median of one. REQUIRES: `pages` is a power of 2, 64 at least.
  enum class Order : std::uint8_t { in_a_row, clusters, at_random };
  struct Swept {
    std::uint64_t ns;
    std::uint64_t median_ns;
  };
  Swept sweep(Order order, PageCount pages);
  // As it was made, before any make_vm(): for tests and benches that drive it themselves.
  int uffd() const noexcept { return uffd_.get(); }
  HostVirt base() const noexcept { return HostVirt{base_}; }

  // What load() gives for a page stored with this seed; seed 0 is a page of zeros.
  static std::uint64_t checksum(std::uint64_t seed);
  // What load() gives for a page that raised SIGBUS.
  static constexpr std::uint64_t kBusError = 0xb0500b05;

 private:
  std::uint64_t timed(Op op, PageIndex p);

  pid_t pid_ = -1;
  sys::Fd socket_;
  sys::Fd ram_;
  sys::Fd uffd_;
  std::uint64_t base_ = 0;
  PageCount pages_;
  bool collecting_ = false;
};

// The page that a sweep of `pages` pages reads as its i-th. Clusters: aligned 64 KiB in a row, one
// such after another in an order that no read-ahead foresees.
constexpr std::uint64_t swept_page(GuestProcess::Order order, std::uint64_t i,
                                   std::uint64_t pages) noexcept {
  constexpr std::uint64_t kOdd = 0x9e3779b1;
  constexpr std::uint64_t kCluster = 16;
  switch (order) {
    case GuestProcess::Order::in_a_row: break;
    case GuestProcess::Order::clusters:
      return i / kCluster * kOdd % (pages / kCluster) * kCluster + i % kCluster;
    case GuestProcess::Order::at_random: return i * kOdd % pages;
  }
  return i;
}
// Sweeps memory of this process.
GuestProcess::Swept sweep_memory(const std::byte* memory, GuestProcess::Order order,
                                 PageCount pages);

// The page's bytes for a seed: compressible, different for every seed, all zero for 0.
void fill_page(std::uint64_t seed, std::byte* page);

}  // namespace ramfold::test
