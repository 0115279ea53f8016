// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon looks after while others work: the kernel's facts at the start, the keeper, the
// VMs' facts and deaths, and whether the host's memory wants folding, and allows it.
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <csignal>

#include "base/clock.hpp"
#include "daemon/host.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "sys/self_test.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kTickNs = 250'000'000;
// Facts are read once a second, on a host with many VMs less often, so that it costs no more than a
// fiftieth of a core: the agent holds what must not begin unseen, and asks for a look at what
// changed.
constexpr std::uint64_t kFactsEveryNs = 1'000'000'000;
constexpr std::uint64_t kFactsEveryMaxNs = 15'000'000'000;
constexpr std::uint64_t kFactsPart = 50;
constexpr std::uint64_t kBuryNs = 60'000'000'000;  // of the largest VM
constexpr unsigned kLastLookWaits = 20;            // of kTickNs

// Nothing is known as {0, 0}.
guest::RamFileId file_of(sys::BorrowedFd fd) {
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return {};
  return {st.st_dev, st.st_ino};
}

}  // namespace

void Host::housekeeping() {
  prove_kernel();
  std::uint64_t facts_ns = 0;  // when they are due
  while (!stopping_) {
    keep_everything();
    bury_dead();
    judge_memory();
    if (!policy_.recovering) workers_->tend();
    if (monotonic_ns() >= facts_ns) {
      const std::uint64_t cpu_ns =
          watch_->check([this](const VmHandle& vm) { unfold_for_consumer(vm); });
      facts_ns = monotonic_ns() + std::clamp(cpu_ns * kFactsPart, kFactsEveryNs, kFactsEveryMaxNs);
    }
    if (!policy_.recovering) contents_->trim();
    sleep_ns(kTickNs);
  }
}

void Host::prove_kernel() {
  const sys::SelfTest test = sys::run_self_test(procfs_, device_);
  guest::HostFacts facts;
  const auto version = procfs_.kernel_version();
  facts.kernel = version ? version->text : "unknown";
  facts.kernel_folds = version && version->at_least(6, 7);
  facts.self_test_passed = test.passed();
  facts.self_test_failure = test.failure();
  std::vector<control::SelfTestView> views;
  for (const sys::KernelFact& fact : test.facts) {
    const auto outcome = !fact.tried  ? control::CheckOutcome::skipped
                         : fact.holds ? control::CheckOutcome::passed
                                      : control::CheckOutcome::failed;
    views.push_back({std::string(fact.name), outcome, fact.detail,
                     fact.holds ? std::string{} : std::string(sys::kSelfTestRemedy)});
  }
  const bool ok = facts.self_test_passed && facts.kernel_folds;
  if (ok) {
    log::info("self-test: {} facts of the kernel hold ({} us)", test.facts.size(), test.took_us);
  } else {
    log::error("self-test: {}: nothing will be folded: {}", facts.self_test_failure,
               sys::kSelfTestRemedy);
  }
  {
    const std::lock_guard lock(policy_.mutex);
    policy_.self_test = std::move(views);
    policy_.self_test_ok = ok;
  }
  facts_ = std::make_unique<guest::ProcFacts>(procfs_, std::move(facts));
  const guest::Custody custody{::getpid(), file_of(contents_->files().contents)};
  watch_ = std::make_unique<FactWatch>(vms_, *facts_, procfs_, custody);
  watching_.store(watch_.get());
}

void Host::keep_everything() {
  const auto complain = [this](const std::string& text) {
    if (text != keeper_complaint_) log::error("keeper: {}", text);
    keeper_complaint_ = text;
  };
  if (!keeping_.connected()) {
    // Without a keeper nothing leaves: what was punched now would be lost with this process.
    for (const VmHandle& vm : vms_.all()) {
      if (vm->kept.exchange(false)) vm->vm->gate().close();
    }
    if (!keeping_.connect()) return;
    log::info("keeper: connected");
  }
  if (keeping_.holds_anothers_store() && !stopping_) {
    // It came after this daemon, which has folded nothing therefore, and holds what a predecessor
    // left.
    log::critical(
        "the keeper holds another store, whose guests wait: ending, so that the next start takes "
        "it");
    ::kill(::getpid(), SIGTERM);
    return;
  }
  for (const VmHandle& vm : vms_.all()) {
    if (vm->kept || vm->detached || !vm->vm->alive()) continue;
    if (Status kept = keeping_.keep_vm(*vm->vm, *contents_); !kept) {
      complain("did not take vm " + vm->vm->name() + ": " + kept.error().text());
      continue;
    }
    vm->kept.store(true);
    // It may have been let go of meanwhile.
    if (vm->detached) (void)keeping_.drop_vm(vm->vm->id());
  }
}

void Host::bury_dead() {
  for (const VmHandle& vm : vms_.all()) {
    if (!has_ended(vm->vm->files().pidfd)) continue;
    if (!vm->counted) continue;  // its references are being counted right now
    vm->vm->set_gone();
    vm->vm->gate().close();
    if (vm->unfolding) continue;
    {
      const std::lock_guard lock(vm->cursor.mutex);
      if (vm->cursor.in_work != 0) continue;
    }
    vm->detached.store(true);
    vms_.remove(vm->vm->id());
    (void)keeping_.drop_vm(vm->vm->id());
    // Moved on, not shared: bury() waits until it is the only owner.
    undertaker_.post([this, dead = vm]() mutable {
      // Who shares the memory of a process that has ended may still hold its locks.
      (void)run_apart_for(kBuryNs,
                          [this, dead = std::move(dead)]() mutable { bury(std::move(dead)); });
    });
  }
}

// On the undertaker's thread: walking the page table and closing the RAM files, which frees their
// memory, take 0.3 to 0.6 s a GiB together, and nobody should wait for it.
void Host::bury(VmHandle vm) {
  vm->faults->stop();
  retired_fault_cpu_ns_.fetch_add(vm->faults->cpu_ns());
  std::uint64_t dropped = 0;
  (void)vm->vm->each_naming([&](PageIndex p) {
    const ContentId content = vm->vm->table().load(p).content();
    if (content == kZeroContent) return true;
    contents_->drop(content);
    ++dropped;
    return true;
  });
  log::info("vm {} (pid {}): ended; {} references given up", vm->vm->name(), vm->vm->pid(),
            dropped);
  // Whoever still looks at it would close the files in its stead.
  for (unsigned i = 0; vm.use_count() > 1 && i < kLastLookWaits && !stopping_; ++i)
    sleep_ns(kTickNs);
}

void Host::judge_memory() {
  // One at a time, from the first look on: a verdict must not replace a later one.
  const std::lock_guard judging(judge_mutex_);
  const auto memory = procfs_.memory_info();
  const std::vector<VmHandle> vms = vms_.all();
  const store::Stats stats = contents_->stats();
  const std::lock_guard lock(policy_.mutex);
  std::vector<control::Reason> reasons;
  const auto because = [&](std::string code, std::string text, std::string remedy) {
    reasons.push_back({std::move(code), std::move(text), std::move(remedy)});
  };
  if (!policy_.self_test_ok) {
    because("self-test", "a kernel fact that folding stands on does not hold here",
            "see `ramfold doctor`; Linux 6.7 or newer is needed");
  }
  if (!keeping_.connected()) {
    because("no-keeper", "the keeper is not there, so nothing may be folded",
            "systemctl start ramfold-keeper");
  }
  if (policy_.recovering && policy_.not_recovered.empty()) {
    because("recovering", "the indexes are being rebuilt after a restart", "wait");
  } else if (policy_.recovering) {
    because("not-recovered",
            "the indexes cannot be rebuilt after a restart: " + policy_.not_recovered,
            "free memory or add swap, it is tried again by itself; folded pages are served");
  }
  {
    const std::lock_guard unusable(unusable_mutex_);
    for (const UnusableVm& vm : unusable_) {
      because("unusable-vm",
              fmt::format("vm {} was folded by a predecessor and cannot be served: {}", vm.id.value,
                          vm.why),
              vm.held ? "end that VM, or what holds its memory map or its RAM file: a file system "
                        "that does not answer?; nothing is folded meanwhile"
                      : "start the ramfold that folded it, or end that VM; nothing is folded "
                        "meanwhile");
    }
  }
  if (policy_.off) {
    const auto trouble = retries_.trouble(kOffTask);
    because("off",
            trouble ? "switched off, and not everything is back: " + trouble->why
                    : "switched off by the operator",
            trouble ? "free memory or add swap, it is tried again by itself; or fold again: "
                      "`ramfold resume`"
                    : "`ramfold resume`");
  }
  if (policy_.paused) because("paused", "paused by the operator", "`ramfold resume`");
  bool may_observe = reasons.empty();
  if (memory) {
    control::Promise& promise = policy_.promise;
    promise.needed_if_all_back = needed_if_all_back(vms, stats);
    promise.available = ByteCount{memory->available.value + memory->swap_free.value};
    promise.reserve = config_.host.reserve.resolve(memory->total);
    promise.unbacked_max = config_.host.unbacked_max.resolve(memory->total);
    policy_.keep_available = config_.fold.keep_available.resolve(memory->total);
    if (!promise.kept()) {
      because("promise", "if every folded page came back, the host's memory would not suffice",
              "add memory or swap, run fewer VMs, or raise host.unbacked_max");
    }
    if (config_.fold.when == policy::FoldWhen::pressure &&
        memory->available > policy_.keep_available) {
      because("memory-plentiful", "idle: memory plentiful",
              "set fold.when = \"eager\" to fold all the same");
    }
  } else {
    because("meminfo", "/proc/meminfo cannot be read", "check that /proc is mounted");
    may_observe = false;
  }
  if (monotonic_ns() < policy_.store_full_until_ns.load()) {
    because("store-full", "the store found no room for a page",
            "raise host.arena_max or free memory");
  }
  policy_.may_observe.store(may_observe);
  // A broken promise or a full store is a reason for it. Memory that nobody needs is none against:
  // the contents are there, and wanted as small as they get once it is needed.
  policy_.may_reform.store(!policy_.recovering && !policy_.off && !policy_.paused);
  policy_.may_fold.store(reasons.empty());
  policy_.reasons = std::move(reasons);
}

}  // namespace ramfold::daemon
