// SPDX-License-Identifier: GPL-2.0-or-later
// Does the cost of scanning follow change, or size? First an idle guest of 1 GiB, folded or
// resident as a whole. Then sparse guests of 1 to 64 GiB with the same writes per second: CPU of
// the scan workers for a pass. In every chunk of its RAM a guest has some pages that it leaves
// alone: folded ones, or resident ones that may not leave.
// Threads: the bench's, the workers', and those that serve faults.
#include <cstdio>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "bench/report.hpp"
#include "daemon/work/scan_workers.hpp"
#include "kernel/guest_process.hpp"
#include "kernel/pin_test.hpp"
#include "store/contents.hpp"

using namespace ramfold;

namespace {

constexpr std::uint64_t kGiBPages = std::uint64_t{1} << 18;
constexpr std::uint64_t kChunk = guest::kChunkPages.value;
constexpr std::uint64_t kIdleAChunk = 4;
// Written once a pass, so that they are never cold: 64 pages in each of 64 chunks. With passes of
// 30 seconds these are 137 pages, or 0.5 MiB, a second.
constexpr std::uint64_t kHot = 4096, kHotAChunk = 64;
constexpr double kPassSeconds = 0.25;
constexpr double kPassSecondsUsual = 30;
constexpr unsigned kPassesToCold = 16;
// In so many passes each chunk that rests is looked at once.
constexpr std::uint64_t kPasses = scan::Rests::kLongest;

enum class Idle { folded, resident };

// The hot pages come first in their chunk, the idle ones last.
PageIndex hot_page(std::uint64_t i) { return PageIndex{i / kHotAChunk * kChunk + i % kHotAChunk}; }

class Scanned {
 public:
  Scanned(std::uint64_t pages, Idle idle, std::uint64_t idle_a_chunk)
      : contents_(std::move(*store::Contents::create(ByteCount{std::uint64_t{1} << 30}))),
        process_(test::GuestProcess::start(PageCount{pages})),
        vm_(std::make_shared<daemon::AttachedVm>()),
        idle_(idle) {
    guest::VmRecord record;
    guest::Vm::Files files = process_->files_for(1, record);
    vm_->vm = std::move(*guest::Vm::make(record, std::move(files)));
    vm_->cursor.next = scan::chunk_count(*vm_->vm);
    vm_->kept = true;
    vm_->agent_ready = true;
    vm_->group = *contents_->group("bench");
    (void)vm_->vm->gate().open(0, vm_->vm->gate().epoch());
    for (std::uint64_t chunk = 0; chunk < pages; chunk += kChunk) {
      for (std::uint64_t i = 0; i < idle_a_chunk; ++i) {
        const std::uint64_t p = chunk + kChunk - 1 - i;
        process_->store(PageIndex{p}, idle == Idle::folded ? 0 : p + 1);
        ++idle_pages_;
      }
    }
    (void)pool_->begin();
    vm_->faults = std::move(*fault::Server::start(pool_, *vm_->vm, *contents_, vm_->group, 1));
    daemon::HostVerdict verdict;
    verdict.may_observe = true;
    verdict.may_fold = idle == Idle::folded;
    verdict.memory = policy::Memory::is_short;
    host_.publish(std::move(verdict));
    config_.fold.pass_seconds = kPassSeconds;
    // Hot pages stay hot though they are not written to in each pass.
    config_.fold.passes = kPassesToCold;
    config_.fold.backoff = false;
    config_.scan.cpu = 1;
    workers_ = std::make_unique<daemon::ScanWorkers>(vms_, *contents_, host_, config_);
    workers_->set(policy::work_targets(config_));
    workers_->fold_with(test::pin_test());
    vm_->targets.store(policy::vm_targets(config_, {}));
    vms_.add(vm_);
    workers_->start();
  }
  ~Scanned() {
    workers_->stop();
    vm_->faults.reset();
  }

  // Until nothing changes any more but the hot pages, and the idle chunks rest.
  void settle(bool writes) {
    const guest::VmCounters& counters = vm_->vm->counters();
    while (idle_ == Idle::folded && counters.folded_zero.get() < idle_pages_ * 99 / 100)
      run(4, writes);
    run(kPassesToCold + kPasses, writes);
  }
  // CPU microseconds of a pass.
  double pass_us(bool writes) {
    const Counter& read = vm_->vm->counters().observed;
    const std::uint64_t read_before = read.get();
    const std::uint64_t began = cpu_ns();
    const auto passes = static_cast<double>(run(kPasses, writes));
    const double read_a_pass = static_cast<double>(read.get() - read_before) / passes;
    if (writes && read_a_pass < 0.95 * kHot) {
      std::fprintf(stderr, "a pass read %.0f of %lu hot pages: the guest wrote too slowly\n",
                   read_a_pass, kHot);
    }
    return static_cast<double>(cpu_ns() - began) / 1000 / passes;
  }

 private:
  // Runs for so many passes, writing to the hot pages. The passes that there were.
  std::uint64_t run(std::uint64_t passes, bool writes) {
    const std::uint64_t began = this->passes();
    while (this->passes() < began + passes) {
      if (!writes) {
        sleep_ns(20'000'000);
        continue;
      }
      for (std::uint64_t i = 0; i < kHotAChunk; ++i, ++written_)
        process_->store(hot_page(written_ % kHot), written_ + 1);
      sleep_ns(static_cast<std::uint64_t>(kPassSeconds * 1e9 * 0.3 * kHotAChunk / kHot));
    }
    return this->passes() - began;
  }
  std::uint64_t passes() const {
    const MutexLock lock(vm_->cursor.mutex);
    return vm_->cursor.passes;
  }
  std::uint64_t cpu_ns() const { return workers_->scan_cpu_ns() + workers_->fold_cpu_ns(); }

  std::unique_ptr<store::Contents> contents_;
  std::unique_ptr<test::GuestProcess> process_;
  std::shared_ptr<fault::Pool> pool_ = std::move(*fault::Pool::make());
  daemon::VmHandle vm_;
  daemon::VmSet vms_;
  daemon::HostState host_;
  policy::Config config_;
  std::unique_ptr<daemon::ScanWorkers> workers_;
  Idle idle_;
  std::uint64_t idle_pages_ = 0;
  std::uint64_t written_ = 0;
};

double pass_us(std::uint64_t gib, Idle idle, std::uint64_t idle_a_chunk, bool writes) {
  Scanned scanned(gib * kGiBPages, idle, idle_a_chunk);
  scanned.settle(writes);
  return scanned.pass_us(writes);
}

void compare_sizes(bench::Report& report, Idle idle) {
  const std::string what =
      idle == Idle::folded ? "a pass, idle RAM folded" : "a pass, idle RAM resident";
  std::vector<double> us;
  for (const std::uint64_t gib : {1u, 4u, 16u, 64u}) {
    us.push_back(pass_us(gib, idle, kIdleAChunk, true));
    const std::size_t n = us.size();
    bench::Row row{what + ", " + std::to_string(gib) + " GiB", "us CPU", {}, {us.back()}, {}, ""};
    if (n > 2) {
      row.floor = {us[n - 3]};
      row.goal = "< 1.5x of a 16th of the size";
      row.ok = us[n - 1] < 1.5 * us[n - 3];
    }
    report.add(std::move(row));
  }
}

}  // namespace

int main() {
  bench::Report report("scan-scaling");
  for (const Idle idle : {Idle::folded, Idle::resident}) {
    const double share = pass_us(1, idle, kChunk, false) / 1e6 / kPassSecondsUsual * 100;
    report.add({idle == Idle::folded ? "an idle VM, all folded" : "an idle VM, all resident",
                "% core/GiB",
                {},
                {share},
                {},
                "< 0.1",
                share < 0.1});
  }
  compare_sizes(report, Idle::folded);
  compare_sizes(report, Idle::resident);
  return report.print();
}
