// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/host.hpp"

#include <algorithm>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "daemon/recovery.hpp"
#include "daemon/unfold.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kArenaMax = std::uint64_t{1} << 40;  // what the store's format allows

// One daemon a host (L8): a POSIX lock on a file of ours dies with its process, whoever holds duplicates.
Result<sys::Fd> take_lock(const std::string& dir) {
  if (::mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) return fail_errno("create " + dir);
  const std::string path = dir + "/ramfoldd.lock";
  sys::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("open " + path);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  if (::fcntl(fd.get(), F_SETLK, &lock) != 0) {
    return fail("another ramfoldd is running (" + path + " is locked): stop it first", errno);
  }
  return fd;
}

Result<sys::Fd> open_device() {
  sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device) return fail("open /dev/userfaultfd (Linux 6.1 or newer with CONFIG_USERFAULTFD is needed)", errno);
  return device;
}

// The features to ask every VM's uffd for: what folding needs, and POISON where the kernel has it.
Result<std::uint64_t> choose_features(sys::BorrowedFd device) {
  sys::Fd probe(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!probe) return fail_errno("make a userfaultfd");
  const auto offered = sys::Uffd::offered_features(probe);
  if (!offered) return offered;
  if ((*offered & sys::Uffd::kFeaturesNeeded) != sys::Uffd::kFeaturesNeeded) {
    return fail("this kernel's userfaultfd cannot guard shared memory: Linux 6.7 or newer is needed");
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
  auto lock = take_lock(host->config_.runtime_dir);
  if (!lock) return std::unexpected(lock.error());
  host->lock_ = std::move(*lock);
  auto device = open_device();
  if (!device) return std::unexpected(device.error());
  host->device_ = std::move(*device);
  const auto features = choose_features(host->device_);
  if (!features) return std::unexpected(features.error());
  host->features_ = *features;
  if (Status taken = host->take_over(); !taken) return std::unexpected(taken.error());
  if (Status opened = host->open_agents(); !opened) return std::unexpected(opened.error());
  host->operator_ = std::thread([h = host.get()] { h->run_operations(); });
  host->recoverer_ = std::thread([h = host.get()] { h->recover(); });
  host->housekeeper_ = std::thread([h = host.get()] { h->housekeeping(); });
  return host;
}

Host::~Host() { stop(); }

// The path to the first fault: keeper, store, VMs; nothing that grows with the size of RAM.
Status Host::take_over() {
  std::optional<Inheritance> left;
  if (Status connected = keeping_.connect(); connected) {
    auto inherited = keeping_.inherit();
    if (!inherited) return std::unexpected(inherited.error());
    left = std::move(*inherited);
  } else {
    spdlog::warn("keeper: {}: nothing will be folded until it is there", connected.error().text());
  }
  TEST_POINT("recovery.inherited");
  const bool inherits = left && left->store;
  if (inherits) {
    auto contents = store::Contents::adopt(std::move(*left->store));
    if (!contents) return std::unexpected(contents.error());
    contents_ = std::move(*contents);
    store_kept_ = true;
    had_keeper_ = true;
  } else {
    if (left && !left->vms.empty()) {
      return fail("the keeper holds VMs without a store: run `ramfold doctor`; their pages cannot be served");
    }
    const auto memory = procfs_.memory_info();
    const ByteCount total = memory ? memory->total : ByteCount{kArenaMax};
    const ByteCount arena{std::min(kArenaMax, config_.host.arena_max.resolve(total).value)};
    auto contents = store::Contents::create(arena);
    if (!contents) return std::unexpected(contents.error());
    contents_ = std::move(*contents);
  }
  attacher_ = std::make_unique<Attacher>(procfs_, *contents_, keeping_, config_, features_);
  if (!left) return {};
  for (const std::string& dropped : left->dropped) spdlog::warn("{}: dropped, nothing of it was folded", dropped);
  for (KeptVm& kept : left->vms) {
    const std::string name = kept.record.name;
    auto vm = attacher_->adopt(std::move(kept));
    TEST_POINT("recovery.vm");
    if (vm) {
      vms_.add(*vm);
      continue;
    }
    // Kept where it is: a later daemon may be able to serve it. Its faults wait; they never read zeros.
    spdlog::error("vm {}: not taken over: {}", name, vm.error().text());
  }
  if (vms_.size() != 0) {
    ++restarts_;
    spdlog::info("took over {} VMs; faults are served {:.1f} ms after the start", vms_.size(),
                 static_cast<double>(monotonic_ns() - started_ns_) / 1e6);
  }
  return {};
}

Status Host::open_agents() {
  auto device = device_.duplicate();
  if (!device) return std::unexpected(device.error());
  auto agents = Agents::start(config_.agent_socket(), generation_, std::move(*device), procfs_, vms_, *attacher_, *this);
  if (!agents) return std::unexpected(agents.error());
  agents_ = std::move(*agents);
  return {};
}

void Host::recover() {
  // Also a store without VMs is swept: what a dead daemon put last is named by nobody.
  bool complete = true;
  for (const VmHandle& vm : vms_.all()) {
    if (!vm->counted) complete = count_references(*vm, *contents_, stopping_) && complete;
  }
  TEST_POINT("recovery.counted");
  if (!complete) return;
  if (contents_->recovering()) {
    if (Status done = contents_->finish_recovery(); !done) {
      spdlog::error("store: not recovered, nothing more will be folded: {}", done.error().text());
      return;
    }
    spdlog::info("store: recovered {:.1f} ms after the start", static_cast<double>(monotonic_ns() - started_ns_) / 1e6);
  }
  policy_.recovering.store(false);
  workers_ = std::make_unique<ScanWorkers>(vms_, *contents_, policy_, config_);
  workers_->start();
}

void Host::stop() noexcept {
  if (stopping_.exchange(true)) return;
  tasks_changed_.notify_all();
  if (recoverer_.joinable()) recoverer_.join();
  if (workers_) workers_->stop();
  if (housekeeper_.joinable()) housekeeper_.join();
  if (operator_.joinable()) operator_.join();
  if (agents_) agents_->stop();
  for (const VmHandle& vm : vms_.all()) vm->faults->stop();
}

void Host::post(Task task) {
  {
    const std::lock_guard lock(tasks_mutex_);
    tasks_.push_back(std::move(task));
  }
  tasks_changed_.notify_one();
}

void Host::run_operations() {
  std::unique_lock lock(tasks_mutex_);
  while (!stopping_) {
    if (tasks_.empty()) {
      tasks_changed_.wait(lock);
      continue;
    }
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

bool Host::wanted(const AgentPeer& peer) {
  const VmIdentity identity = identify(procfs_, peer.pid);
  (void)identity;
  return !policy_.off;
}

void Host::attached(const VmHandle& vm) {
  spdlog::info("vm {} (id {}, pid {}): attached, {} MiB in {} blocks, group {}", vm->vm->name(), vm->vm->id().value,
               vm->vm->pid(), bytes(vm->vm->pages()).value >> 20, vm->ram.size(), vm->vm->record().group);
}

bool Host::forget_unused(const VmHandle& vm) {
  const guest::VmCounters& c = vm->vm->counters();
  if (!vm->counted || vm->agent_ready || vm->unfolding) return false;
  if (c.folded_zero.get() + c.folded_content.get() + c.clean.get() != 0) return false;
  vm->detached.store(true);
  vm->faults->stop();
  vms_.remove(vm->vm->id());
  (void)keeping_.drop_vm(vm->vm->id());
  return true;
}

void Host::agent_ready(const VmHandle& vm) { look_again(vm); }

void Host::look_again(const VmHandle& vm) {
  // Reading facts takes milliseconds and must not hold up the agents' thread.
  post([this, vm] {
    const std::lock_guard lock(watch_mutex_);
    if (watch_) watch_->check_one(vm, guest::Depth::quick, [this](const VmHandle& v) { unfold_for_consumer(v); });
  });
}

void Host::unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) {
  spdlog::warn("vm {}: another consumer of its RAM waits (hazard {:#x}): unfolding", vm->vm->name(), hazard);
  post([this, vm, token] {
    vm->stay_unfolded.store(true);
    Status done;
    if (!vm->unfolding.exchange(true)) {
      done = unfold(*vm, [](std::uint64_t) {});
      vm->unfolding.store(false);
    } else {
      done = fail("being unfolded already", EAGAIN);
    }
    if (!done) {
      spdlog::error("vm {}: not unfolded: {}", vm->vm->name(), done.error().text());
      vm->stay_unfolded.store(false);
    }
    agents_->send_unfolded(*vm, token, done.has_value());
  });
}

void Host::unfold_for_consumer(const VmHandle& vm) {
  if (vm->stay_unfolded.exchange(true)) return;
  {
    const std::lock_guard lock(vm->facts.mutex);
    spdlog::warn("vm {}: {}: unfolding, it will not be folded again", vm->vm->name(), vm->facts.unfolded_for);
  }
  post([vm] {
    if (vm->unfolding.exchange(true)) return;
    if (Status done = unfold(*vm, [](std::uint64_t) {}); !done) {
      spdlog::error("vm {}: not unfolded: {}", vm->vm->name(), done.error().text());
    }
    vm->unfolding.store(false);
  });
}

control::Answer<void> Host::detach(const VmHandle& vm, const std::function<void(std::uint64_t)>& progress) {
  using control::Failure;
  if (vm->unfolding.exchange(true)) {
    return control::refuse(Failure::conflict, "the VM is being unfolded already", "wait for it to end");
  }
  const control::UnfoldPlan plan = plan_unfold(*vm, memory_for_unfolding());
  if (plan.missing().value != 0) {
    vm->unfolding.store(false);
    return control::refuse(Failure::refused, "the host has not enough memory to bring this VM's pages back",
                           "free memory or add swap, or detach smaller VMs first", plan.missing());
  }
  const auto headroom = facts_ ? facts_->headroom(vm->vm->pid()) : Result<std::optional<ByteCount>>{};
  if (headroom && *headroom && **headroom < plan.needed) {
    vm->unfolding.store(false);
    return control::refuse(Failure::refused, "the VM's memory cgroup has not enough room for its own pages",
                           "raise the limit of its cgroup", ByteCount{plan.needed.value - (**headroom).value});
  }
  if (Status done = unfold(*vm, progress); !done) {
    vm->unfolding.store(false);
    return control::refuse(Failure::failed, done.error().text(), "the VM is attached and served as before");
  }
  vm->detached.store(true);
  agents_->send_detached(*vm);
  vm->faults->stop();
  retired_fault_cpu_ns_.fetch_add(vm->faults->cpu_ns());
  vms_.remove(vm->vm->id());
  (void)keeping_.drop_vm(vm->vm->id());
  spdlog::info("vm {}: detached", vm->vm->name());
  return {};
}

ByteCount Host::memory_for_unfolding() const {
  const auto memory = procfs_.memory_info();
  if (!memory) return ByteCount{0};
  // Swap counts here: these pages may be swapped like any other, and the operator asked for them.
  const std::uint64_t reserve = config_.host.reserve.resolve(memory->total).value;
  const std::uint64_t have = memory->available.value + memory->swap_free.value;
  return ByteCount{have - std::min(have, reserve)};
}

}  // namespace ramfold::daemon
