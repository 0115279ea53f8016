// SPDX-License-Identifier: GPL-2.0-or-later
// Do CPU and memory a page stay the same while guests grow? Guests of 1, 4, 16 and 64 GiB are
// folded whole, 64 MiB after the other, so that they never take much memory; their pages hold 4,096
// different contents. Then everything that the daemon does to a page is measured: fold, scan of a
// guest that is folded and idle, fault, recovery; and the memory of its bookkeeping. The guests
// take turns in each, so that whatever else the machine does meets all of them. Folding is measured
// over the last GiB of each guest. Each row compares a size with the smallest.
// usage: bench_growth [GIB]...   other sizes; 10 bytes of memory a page are needed
#include <sys/stat.h>
#include <algorithm>
#include <cstdlib>
#include <deque>
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
constexpr int kRecoveries = 5;
constexpr std::uint64_t kGib = std::uint64_t{1} << (30 - kPageShift);  // pages
// The words of 1 GiB fit into a core's cache, those of 64 GiB do not.
constexpr double kFlat = 1.5;

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

// Of one size.
struct Figures {
  std::vector<double> fold_ns;      // a page
  std::vector<double> scan_ns;      // a page
  std::vector<double> fault_us;     // that the guest waits
  double fault_cpu_ns = 0;          // a fault
  std::vector<double> recovery_ns;  // a page
  double bytes = 0;                 // a page
};

double a_page(std::uint64_t ns, std::uint64_t pages) {
  return static_cast<double>(ns) / static_cast<double>(pages);
}

class Guest {
 public:
  explicit Guest(std::uint64_t gib) : pages_(gib << (30 - kPageShift)) {
    vm_->vm = process_->make_vm(1);
    vm_->group = must(contents_->group("bench"));
    (void)vm_->vm->gate().open(0, vm_->vm->gate().epoch());
  }

  std::size_t chunks() const { return scan::chunk_count(*vm_->vm); }
  // Fills and folds chunks. Nanoseconds of folding.
  std::uint64_t fold(std::size_t first, std::size_t end) {
    for (std::size_t chunk = first; chunk < end; ++chunk) {
      const std::uint64_t page = chunk * kChunk;
      process_->store_run(PageIndex{page}, page % kDifferent + 1, kChunk);
    }
    sys::drain_page_batches();
    (void)pass_over(first, end);  // observes
    sys::drain_page_batches();
    return pass_over(first, end);
  }
  void check_folded() const {
    const std::uint64_t folded = vm_->vm->counters().folded_content.get();
    if (folded != pages_)
      std::fprintf(stderr, "only %lu of %lu pages are folded\n", folded, pages_);
  }
  std::uint64_t pass_over(std::size_t first, std::size_t end) {
    const std::uint64_t began = thread_cpu_ns();
    for (std::size_t chunk = first; chunk < end; ++chunk) {
      const auto n = planner_.plan(*vm_->vm, chunk, {1}, *windows_);
      for (std::size_t i = 0; n && i < *n; ++i) {
        folder_->look(*vm_->vm, vm_->group, (*windows_)[i]);
        folder_->leave(*vm_->vm, vm_->group, (*windows_)[i], {});
      }
    }
    return thread_cpu_ns() - began;
  }
  void serve() {
    const auto pool = must(fault::Pool::make());
    if (!pool->begin()) std::fprintf(stderr, "no thread for faults\n");
    vm_->faults = must(fault::Server::start(pool, *vm_->vm, *contents_, vm_->group, 1));
  }
  double touch(std::uint64_t random) {
    return static_cast<double>(process_->read_ns(PageIndex{random % pages_})) / 1e3;
  }
  std::uint64_t fault_cpu_ns() const { return vm_->faults->cpu_ns(); }
  double bytes_a_page() const {
    constexpr double kOwner = 1;  // a byte in the daemon's memory
    return (backed(vm_->vm->files().words) + backed(vm_->vm->files().shared)) /
               static_cast<double>(pages_) +
           kOwner;
  }
  // As the next daemon does it: with the same files, it counts each page's reference, then it makes
  // the index again. Nanoseconds a page.
  double recover() {
    vm_->faults.reset();
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
    folder_ = std::make_unique<fold::Folder>(*next, proof_);
    contents_ = std::move(next);
    return a_page(ns, pages_);
  }

 private:
  const std::uint64_t pages_;
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

std::vector<Figures> measure(std::deque<Guest>& guests) {
  std::vector<Figures> figures(guests.size());
  const auto take_turns = [&](auto&& step) {
    for (std::size_t g = 0; g < guests.size(); ++g) step(guests[g], figures[g]);
  };
  constexpr std::size_t kLast = kGib / kChunk;
  for (Guest& guest : guests) {
    for (std::size_t chunk = 0; chunk + kLast < guest.chunks(); chunk += kAtOnce)
      (void)guest.fold(chunk, chunk + kAtOnce);
  }
  for (std::size_t chunk = 0; chunk < kLast; chunk += kAtOnce) {
    take_turns([&](Guest& guest, Figures& f) {
      const std::size_t first = guest.chunks() - kLast + chunk;
      f.fold_ns.push_back(a_page(guest.fold(first, first + kAtOnce), kAtOnce * kChunk));
    });
  }
  for (const Guest& guest : guests) guest.check_folded();
  for (std::size_t slice = 0; slice * kLast < guests.back().chunks(); ++slice) {
    take_turns([&](Guest& guest, Figures& f) {
      const std::size_t first = slice * kLast % guest.chunks();
      f.scan_ns.push_back(a_page(guest.pass_over(first, first + kLast), kGib));
    });
  }
  take_turns([](Guest& guest, Figures& f) {
    guest.serve();
    f.bytes = guest.bytes_a_page();
  });
  std::mt19937_64 random(1);
  for (int i = 0; i < kFaults; ++i) {
    const std::uint64_t page = random();
    take_turns([&](Guest& guest, Figures& f) { f.fault_us.push_back(guest.touch(page)); });
  }
  take_turns([](Guest& guest, Figures& f) {
    f.fault_cpu_ns = static_cast<double>(guest.fault_cpu_ns()) / kFaults;
  });
  for (int i = 0; i < kRecoveries; ++i) {
    take_turns([](Guest& guest, Figures& f) { f.recovery_ns.push_back(guest.recover()); });
  }
  return figures;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::uint64_t> sizes{1, 4, 16, 64};
  if (argc > 1) sizes.clear();
  for (int i = 1; i < argc; ++i) sizes.push_back(std::strtoull(argv[i], nullptr, 10));
  if (sizes.size() < 2 || std::ranges::count(sizes, 0) != 0) {
    std::fprintf(stderr, "usage: %s [GIB]...   two sizes or more, the smallest first\n", argv[0]);
    return 2;
  }
  std::deque<Guest> guests;

  for (const std::uint64_t gib : sizes) guests.emplace_back(gib);
  const std::vector<Figures> all = measure(guests);
  bench::Report report("growth");
  // `first`, `here`: the figures of the smallest guest, and of this one.
  const auto add = [&](const std::string& what, const char* unit, std::size_t i,
                       std::vector<double> first, std::vector<double> here, bool goal) {
    const bool flat = bench::median(here) <= kFlat * bench::median(first);
    report.add({what + std::to_string(sizes[i]) + " GiB",
                unit,
                std::move(first),
                std::move(here),
                {},
                goal ? "<= 1.5x the first" : "",
                goal ? std::optional(flat) : std::nullopt});
  };
  for (std::size_t i = 1; i < all.size(); ++i) {
    const Figures& a = all.front();
    const Figures& b = all[i];
    add("fold, ", "ns a page", i, a.fold_ns, b.fold_ns, true);
    add("scan of an idle guest, ", "ns a page", i, a.scan_ns, b.scan_ns, true);
    add("fault, CPU, ", "ns", i, {a.fault_cpu_ns}, {b.fault_cpu_ns}, true);
    add("fault, the guest waits, ", "us", i, a.fault_us, b.fault_us, false);
    add("recovery, ", "ns a page", i, a.recovery_ns, b.recovery_ns, true);
    add("bookkeeping, ", "B a page", i, {a.bytes}, {b.bytes}, true);
  }
  return report.print();
}
