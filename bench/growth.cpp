// SPDX-License-Identifier: GPL-2.0-or-later
// Do CPU and memory a page stay the same while guests grow? A guest of 1, 4, 16 and 64 GiB is
// folded whole, 64 MiB after the other, so that it never takes much memory; its pages hold 4,096
// different contents. Then everything that the daemon does to a page is measured: fold, scan of a
// guest that is folded and idle, fault, recovery; and the memory of its bookkeeping. Each row
// compares a size with the smallest.
// usage: bench_growth [GIB]...   other sizes; 16 bytes of memory a page are needed
#include <sys/stat.h>
#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

#include "base/clock.hpp"
#include "bench/report.hpp"
#include "daemon/custody/recovery.hpp"
#include "fold/folder.hpp"
#include "guest/pin_proof.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "scan/plan.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"
#include "sys/page_batches.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kChunk = guest::kChunkPages.value;
constexpr std::size_t kAtOnce = 32;  // chunks
constexpr std::uint64_t kDifferent = 4096;
constexpr int kFaults = 2000;
constexpr int kScans = 3;
constexpr double kFlat = 1.25;

template <typename T>
T must(Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().text().c_str());
  std::exit(2);
}

double backed(const sys::Fd& fd) {
  struct stat st{};
  return ::fstat(fd.get(), &st) == 0 ? static_cast<double>(st.st_blocks) * 512 : 0;
}

// Of one size: nanoseconds and bytes a page, but for the latency.
struct Figures {
  double fold_ns = 0;
  std::vector<double> scan_ns;
  double fault_cpu_ns = 0;  // a fault
  double fault_us = 0;      // the median that the guest waits
  double recovery_ns = 0;
  double bytes = 0;
};

class Guest {
 public:
  explicit Guest(std::uint64_t gib) : pages_(gib << (30 - kPageShift)) {
    vm_->vm = process_->make_vm(1);
    vm_->group = must(contents_->group("bench"));
    (void)vm_->vm->gate().open(0, vm_->vm->gate().epoch());
  }

  Figures measure() {
    Figures figures;
    figures.fold_ns = a_page(fold());
    for (int i = 0; i < kScans; ++i) figures.scan_ns.push_back(a_page(scan()));
    bring_back(figures);
    figures.bytes = (backed(vm_->vm->files().words) + backed(vm_->vm->files().shared)) /
                        static_cast<double>(pages_) +
                    1;  // the owners' byte
    figures.recovery_ns = a_page(recover());
    return figures;
  }

 private:
  double a_page(std::uint64_t ns) const {
    return static_cast<double>(ns) / static_cast<double>(pages_);
  }
  std::size_t chunks() const { return scan::chunk_count(*vm_->vm); }
  std::uint64_t pass_over(std::size_t chunk) {
    const std::uint64_t began = thread_cpu_ns();
    const auto n = planner_.plan(*vm_->vm, chunk, {1}, *windows_);
    for (std::size_t i = 0; n && i < *n; ++i) {
      folder_->look(*vm_->vm, vm_->group, (*windows_)[i]);
      folder_->leave(*vm_->vm, vm_->group, (*windows_)[i], {});
    }
    return thread_cpu_ns() - began;
  }
  std::uint64_t fold() {
    std::uint64_t ns = 0;
    for (std::size_t first = 0; first < chunks(); first += kAtOnce) {
      const std::size_t end = std::min(first + kAtOnce, chunks());
      for (std::size_t chunk = first; chunk < end; ++chunk) {
        const std::uint64_t page = chunk * kChunk;
        process_->store_run(PageIndex{page}, page % kDifferent + 1, kChunk);
      }
      sys::drain_page_batches();
      for (std::size_t chunk = first; chunk < end; ++chunk) (void)pass_over(chunk);  // observes
      sys::drain_page_batches();
      for (std::size_t chunk = first; chunk < end; ++chunk) ns += pass_over(chunk);
    }
    const guest::VmCounters& counters = vm_->vm->counters();
    if (counters.folded_content.get() != pages_) {
      std::fprintf(stderr, "only %lu of %lu pages are folded\n", counters.folded_content.get(),
                   pages_);
    }
    return ns;
  }
  std::uint64_t scan() {
    vm_->vm->next_pass();
    std::uint64_t ns = 0;
    for (std::size_t chunk = 0; chunk < chunks(); ++chunk) ns += pass_over(chunk);
    return ns;
  }
  void bring_back(Figures& figures) {
    const auto pool = must(fault::Pool::make());
    if (!pool->begin()) std::fprintf(stderr, "no thread for faults\n");
    vm_->faults = must(fault::Server::start(pool, *vm_->vm, *contents_, vm_->group, 1));
    std::mt19937_64 random(1);
    std::vector<double> us;
    for (int i = 0; i < kFaults; ++i) {
      us.push_back(static_cast<double>(process_->read_ns(PageIndex{random() % pages_})) / 1e3);
    }
    figures.fault_us = bench::median(us);
    figures.fault_cpu_ns = static_cast<double>(vm_->faults->cpu_ns()) / kFaults;
    vm_->faults.reset();
  }
  // As the next daemon does it: with the same files, it counts each page's reference, then it makes
  // the index again.
  std::uint64_t recover() {
    contents_->hand_over();
    const store::Contents::Files& files = contents_->files();
    auto next = must(store::Contents::adopt({must(files.contents.duplicate()),
                                             must(files.arena.duplicate()),
                                             must(files.groups.duplicate()),
                                             {}}));
    vm_->group = must(next->group("bench"));
    vm_->counted.store(false);
    vm_->vm->begin_uncounted();
    const std::atomic<bool> stop{false};
    const std::uint64_t began = thread_cpu_ns();
    if (!daemon::count_references(*vm_, *next, stop) || !next->finish_recovery())
      std::fprintf(stderr, "the store is not recovered\n");
    const std::uint64_t ns = thread_cpu_ns() - began;
    next_ = std::move(next);
    return ns;
  }

  const std::uint64_t pages_;
  std::unique_ptr<store::Contents> next_;  // outlives the VM's hold on its group
  std::unique_ptr<store::Contents> contents_ =
      must(store::Contents::create(ByteCount{std::uint64_t{1} << 30}));
  std::unique_ptr<test::GuestProcess> process_ = test::GuestProcess::start(PageCount{pages_});
  daemon::VmHandle vm_ = std::make_shared<daemon::AttachedVm>();
  guest::PinProof proof_{test::pin_test()};
  scan::Planner planner_{proof_};
  std::unique_ptr<std::array<scan::Window, scan::kChunkWindows>> windows_ =
      std::make_unique<std::array<scan::Window, scan::kChunkWindows>>();
  std::unique_ptr<fold::Folder> folder_ = std::make_unique<fold::Folder>(*contents_, proof_);
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::uint64_t> sizes{1, 4, 16, 64};
  if (argc > 1) sizes.clear();
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));
  if (sizes.size() < 2 || std::ranges::count(sizes, 0) != 0) {
    std::fprintf(stderr, "usage: %s [GIB]...   two sizes or more, the smallest first\n", argv[0]);
    return 2;
  }
  std::vector<Figures> all;
  for (const std::uint64_t gib : sizes) all.push_back(Guest(gib).measure());
  bench::Report report("growth");
  const auto add = [&](const std::string& what, const char* unit, std::size_t i,
                       std::vector<double> first, std::vector<double> here, bool goal) {
    const bool flat = bench::median(here) <= kFlat * bench::median(first);
    report.add({what + std::to_string(sizes[i]) + " GiB",
                unit,
                std::move(first),
                std::move(here),
                {},
                goal ? "<= 1.25x the first" : "",
                goal ? std::optional(flat) : std::nullopt});
  };
  for (std::size_t i = 1; i < all.size(); ++i) {
    const Figures& a = all.front();
    const Figures& b = all[i];
    add("fold, ", "ns a page", i, {a.fold_ns}, {b.fold_ns}, true);
    add("scan of an idle guest, ", "ns a page", i, a.scan_ns, b.scan_ns, true);
    add("fault, CPU, ", "ns", i, {a.fault_cpu_ns}, {b.fault_cpu_ns}, true);
    add("fault, the guest waits, ", "us", i, {a.fault_us}, {b.fault_us}, false);
    add("recovery, ", "ns a page", i, {a.recovery_ns}, {b.recovery_ns}, true);
    add("bookkeeping, ", "B a page", i, {a.bytes}, {b.bytes}, true);
  }
  return report.print();
}
