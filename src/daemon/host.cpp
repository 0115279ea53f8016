// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/host.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/custody/recovery.hpp"
#include "daemon/log.hpp"
#include "daemon/threads/apart.hpp"
#include "daemon/threads/nap.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kNapNs = 100'000'000;
constexpr std::uint64_t kMomentNs = 100'000'000;
constexpr unsigned kStopWaits = 20;  // of kNapNs

Result<sys::Fd> open_device() {
  sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device)
    return fail("open /dev/userfaultfd (Linux 6.1 or newer with CONFIG_USERFAULTFD is needed)",
                errno);
  return device;
}

// The features to ask every VM's uffd for: what folding needs, and POISON where the kernel has it.
Result<std::uint64_t> choose_features(sys::BorrowedFd device) {
  sys::Fd probe(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!probe) return fail_errno("make a userfaultfd");
  const auto offered = sys::Uffd::offered_features(probe);
  if (!offered) return offered;
  if ((*offered & sys::Uffd::kFeaturesNeeded) != sys::Uffd::kFeaturesNeeded) {
    return fail(
        "this kernel's userfaultfd cannot guard shared memory: Linux 6.7 or newer is needed");
  }
  return sys::Uffd::kFeaturesNeeded | (*offered & sys::Uffd::kFeaturePoison);
}

}  // namespace

Host::Host(policy::Config config)
    : config_(std::move(config)), started_ns_(monotonic_ns()), keeping_(config_.keeper_socket()) {
  // A session's number only has to differ from its predecessor's and from 0.
  generation_ =
      std::max<std::uint32_t>(1, static_cast<std::uint32_t>(clock_ns(CLOCK_REALTIME) / 1'000'000));
}

Result<std::unique_ptr<Host>> Host::start(policy::Config config) {
  std::unique_ptr<Host> host(new Host(std::move(config)));
  auto lock = take_host_lock(host->config_.runtime_dir, host->procfs_);
  if (!lock) return std::unexpected(lock.error());
  host->lock_ = std::move(*lock);
  if (const auto& remains = host->lock_.remains) {
    log::warn("pid {}, a daemon that was killed, does not end: {} VMs hold it up", remains->pid,
              remains->vms.size());
    host->keeping_.replace(remains->pid);
  }
  auto device = open_device();
  if (!device) return std::unexpected(device.error());
  host->device_ = std::move(*device);
  const auto features = choose_features(host->device_);
  if (!features) return std::unexpected(features.error());
  host->features_ = *features;
  if (Status taken = host->take_over(); !taken) return std::unexpected(taken.error());
  if (Status opened = host->open_agents(); !opened) return std::unexpected(opened.error());
  host->recoverer_ = std::thread([h = host.get()] { h->recover(); });
  host->housekeeper_ = std::thread([h = host.get()] { h->housekeeping(); });
  return host;
}

Host::~Host() { stop(); }

Status Host::open_agents() {
  auto device = device_.duplicate();
  if (!device) return std::unexpected(device.error());
  auto agents = Agents::start(config_.agent_socket(), generation_, std::move(*device), procfs_,
                              vms_, *attacher_, *this);
  if (!agents) return std::unexpected(agents.error());
  agents_ = std::move(*agents);
  return {};
}

void Host::recover() {
  // Also a store without VMs is swept: what a dead daemon put last is named by nobody.
  bool complete = true;
  for (VmHandle& vm : vms_.all()) {
    if (!vm->counted) complete = count_references(*vm, *contents_, stopping_) && complete;
    vm.reset();  // from here on it may be buried
  }
  TEST_POINT("recovery.counted");
  // What no word names that was counted is freed below.
  if (!complete || !wait_for_unusable()) return;
  if (contents_->recovering() && !recover_store()) return;
  workers_ = std::make_unique<ScanWorkers>(vms_, *contents_, policy_, config_);
  if (config_.reform.policy != policy::ReformPreset::off) {
    auto reform = ReformWorker::make(*contents_, policy_, config_.reform);
    if (reform) {
      reform_ = std::move(*reform);
    } else {
      log::error("what is stored keeps its form: {}", reform.error().text());
    }
  }
  policy_.recovering.store(false);
  judge_memory();
  workers_->start();
  if (reform_) reform_->start();
}

bool Host::recover_store() {
  constexpr Retries::Pauses kPauses;
  std::uint64_t pause_ns = kPauses.first_ns;
  for (unsigned attempts = 1; !stopping_; ++attempts) {
    const Status done = contents_->finish_recovery();
    if (done) {
      log::info("store: recovered {:.1f} ms after the start{}",
                static_cast<double>(monotonic_ns() - started_ns_) / 1e6,
                attempts == 1 ? "" : fmt::format(", by {} attempts", attempts));
      return true;
    }
    const std::string why = done.error().text();
    if (attempts == 1) {
      log::error("store: not recovered, nothing is folded until it is: {}: trying again", why);
    }
    {
      const std::lock_guard lock(policy_.mutex);
      policy_.not_recovered = why;
    }
    sleep_until(monotonic_ns() + pause_ns, stopping_);
    pause_ns = std::min(pause_ns * 2, kPauses.most_ns);
  }
  return false;
}

void Host::stop() noexcept {
  if (stopping_.exchange(true)) return;
  if (recoverer_.joinable()) recoverer_.join();
  if (workers_) workers_->stop();
  if (reform_) reform_->stop();
  if (housekeeper_.joinable()) housekeeper_.join();
  retries_.stop();
  undertaker_.stop();
  if (agents_) agents_->stop();
  for (const VmHandle& vm : vms_.all()) {
    (void)stop_faults(vm, 0);
  }
  for (unsigned i = 0; i < kStopWaits && count_apart() != 0; ++i) sleep_ns(kNapNs);
}

void Host::make_way() noexcept {
  const auto start_ticks = procfs_.start_ticks(::getpid());
  for (const VmHandle& vm : vms_.all()) {
    bool in_work = false;
    {
      const std::lock_guard lock(vm->cursor.mutex);
      in_work = vm->cursor.in_work != 0;
    }
    if (!in_work && !vm->unfolding && vm->faults_stopped) continue;  // a look changes nothing
    log::warn(
        "vm {} (pid {}): holds up a thread of this process, which ends when that VM does; nobody "
        "serves it until then",
        vm->vm->name(), vm->vm->pid());
    const Status noted =
        guest::note_left_by(vm->vm->files().record, ::getpid(), start_ticks.value_or(0));
    if (!noted) log::error("vm {}: {}", vm->vm->name(), noted.error().text());
  }
  // What the end of the process does where threads do not keep it from that.
  keeping_.disconnect();
  lock_.file.reset();
}

bool Host::stop_faults(const VmHandle& vm, std::uint64_t patience_ns) {
  if (vm->faults_stopped) return true;
  if (vm->faults_stopping.exchange(true)) return false;
  const Ended ended = run_apart_for(patience_ns, [vm] {
    vm->faults->stop();
    vm->faults_stopped.store(true);
  });
  if (ended == Ended::never_ran) vm->faults_stopping.store(false);
  return ended == Ended::yes;
}

bool Host::wanted(const AgentPeer& peer) {
  if (policy_.off) return false;
  // It will be what it was, once it can be taken over.
  const std::lock_guard lock(unusable_mutex_);
  return std::ranges::none_of(unusable_, [&](const UnusableVm& vm) {
    return vm.held && vm.held->record.pid == peer.pid &&
           vm.held->record.start_time == peer.start_ticks;
  });
}

void Host::attached(const VmHandle& vm) {
  log::info("vm {} (id {}, pid {}): attached, {} MiB in {} blocks, group {}", vm->vm->name(),
            vm->vm->id().value, vm->vm->pid(), bytes(vm->vm->pages()).value >> 20, vm->ram.size(),
            vm->vm->record().group);
}

bool Host::forget_unused(const VmHandle& vm) {
  const guest::VmCounters& c = vm->vm->counters();
  if (!vm->counted || vm->agent_ready || vm->unfolding) return false;
  if (c.folded_zero.get() + c.folded_content.get() + c.clean.get() != 0) return false;
  // The next to be attached may have the same userfaultfd: one service may read its events.
  if (!stop_faults(vm, kMomentNs)) return false;
  vm->detached.store(true);
  vms_.remove(vm->vm->id());
  (void)keeping_.drop_vm(vm->vm->id());
  return true;
}

void Host::agent_ready(const VmHandle& vm) { look_again(vm); }

void Host::look_again(const VmHandle& vm) {
  // Reading facts takes milliseconds and must not hold up the agents' thread. However often an
  // agent asks: one look at a time, and one that comes after it.
  if (vm->look_asked.exchange(true)) return;
  const bool runs = run_apart([this, vm] {
    vm->look_asked.store(false);
    look_now(vm);
  });
  if (!runs) vm->look_asked.store(false);
}

void Host::look_now(const VmHandle& vm) {
  FactWatch* const watch = watching_.load();
  if (watch == nullptr || stopping_) return;
  watch->check_one(vm, guest::Depth::quick, [this](const VmHandle& v) { unfold_for_consumer(v); });
}

}  // namespace ramfold::daemon
