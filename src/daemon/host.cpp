// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/host.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>

#include "base/clock.hpp"
#include "daemon/log.hpp"
#include "daemon/report/service.hpp"
#include "daemon/threads/apart.hpp"
#include "store/contents.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kNapNs = 100'000'000;
constexpr unsigned kStopWaits = 20;  // of kNapNs

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

// A session's number only has to differ from its predecessor's and from 0.
std::uint32_t new_generation() noexcept {
  return std::max<std::uint32_t>(1,
                                 static_cast<std::uint32_t>(clock_ns(CLOCK_REALTIME) / 1'000'000));
}

}  // namespace

// In the order in which they need each other.
struct Host::Rooms {
  explicit Rooms(Host& h)
      : departures(h.vms_, h.keeping_, *h.contents_, h.stopping_),
        hand_over(h.vms_, h.keeping_, *h.contents_),
        room(h.procfs_, h.config_, [this](GroupId group) { return work.mean_read_ns(group); }),
        consumers(h.retries_, room, *h.agents_, h.stopping_),
        detach(room, departures, *h.agents_, h.stopping_),
        off({h.state_, h.vms_, h.keeping_, *h.contents_, departures, detach, room, h.retries_,
             *h.agents_, [this] { loop.judge(); }, h.stopping_}),
        facts(
            h.vms_, h.procfs_, [this](const VmHandle& vm) { consumers.has_begun(vm); },
            h.stopping_),
        recovery(h.vms_, h.keeping_, h.left_behind_, *h.adopter_, *h.agents_, h.stopping_),
        work(h.vms_, *h.contents_, h.state_, h.config_),
        loop({h.config_, h.procfs_, h.device_, h.state_, h.vms_, *h.contents_, h.keeping_,
              hand_over, departures, h.left_behind_, recovery, facts, work, off, h.stopping_}) {}

  Departures departures;
  HandOver hand_over;
  Room room;
  Consumers consumers;
  Detach detach;
  OffSwitch off;
  FactWatch facts;
  Recovery recovery;
  Work work;
  Loop loop;
};

Host::Host(policy::Config config)
    : config_(std::move(config)),
      started_ns_(monotonic_ns()),
      generation_(new_generation()),
      keeping_(config_.keeper_socket()),
      left_behind_(procfs_) {}

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
  if (Status opened = host->open_device(); !opened) return std::unexpected(opened.error());
  if (Status taken = host->take_over_guests(); !taken) return std::unexpected(taken.error());
  if (Status opened = host->open_agents(); !opened) return std::unexpected(opened.error());
  host->rooms_ = std::make_unique<Rooms>(*host);
  host->agents_->start();
  host->recoverer_ = std::thread([h = host.get()] { h->recover(); });
  host->looper_ = std::thread([h = host.get()] { h->rooms_->loop.run(); });
  return host;
}

Host::~Host() { stop(); }

Status Host::open_device() {
  device_ = sys::Fd(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device_) {
    return fail("open /dev/userfaultfd (Linux 6.1 or newer with CONFIG_USERFAULTFD is needed)",
                errno);
  }
  const auto features = choose_features(device_);
  if (!features) return std::unexpected(features.error());
  features_ = *features;
  return {};
}

Status Host::take_over_guests() {
  auto taken = take_over(keeping_, procfs_, config_);
  if (!taken) return std::unexpected(taken.error());
  contents_ = std::move(taken->contents);
  adopter_ = std::make_unique<Adopter>(*contents_, config_);
  attacher_ = std::make_unique<Attacher>(*adopter_, keeping_, features_);
  attacher_->number_after(taken->left.last);
  const std::size_t served =
      adopt_all(std::move(taken->left), lock_.remains, *adopter_, vms_, left_behind_);
  if (served == 0) return {};
  ++restarts_;
  log::info("took over {} VMs; faults are served {:.1f} ms after the start", served,
            static_cast<double>(monotonic_ns() - started_ns_) / 1e6);
  return {};
}

Status Host::open_agents() {
  auto device = device_.duplicate();
  if (!device) return std::unexpected(device.error());
  auto agents = Agents::make(config_.agent_socket(), generation_, std::move(*device), procfs_, vms_,
                             *attacher_, *this);
  if (!agents) return std::unexpected(agents.error());
  agents_ = std::move(*agents);
  return {};
}

void Host::recover() {
  if (!rooms_->recovery.run()) return;
  state_.recovering.store(false);
  rooms_->loop.judge();
  rooms_->work.start();
}

void Host::stop() noexcept {
  begin_stop();
  if (stopped_.exchange(true) || !rooms_) return;
  if (recoverer_.joinable()) recoverer_.join();
  rooms_->work.stop();
  if (looper_.joinable()) looper_.join();
  retries_.stop();
  rooms_->departures.stop();
  agents_->stop();
  for (const VmHandle& vm : vms_.all()) (void)stop_faults(vm, 0);
  for (unsigned i = 0; i < kStopWaits && count_apart() != 0; ++i) sleep_ns(kNapNs);
  // What those do that are held up, and the end of VMs here, is not to change what the next daemon
  // finds, and may use already.
  if (contents_) contents_->hand_over();
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

std::unique_ptr<control::Service> Host::make_service() {
  Rooms& r = *rooms_;
  return std::make_unique<HostService>(HostService::Parts{
      procfs_, state_, vms_, *contents_, keeping_, r.departures, *agents_, r.facts, r.work,
      r.detach, r.off, r.consumers, [&r] { r.loop.judge(); }, started_ns_, restarts_});
}

bool Host::wanted(const AgentPeer& peer) {
  // A VM that was left behind will be what it was, once it can be taken over.
  return !state_.off && !left_behind_.has(peer.pid, peer.start_ticks);
}

void Host::attached(const VmHandle& vm) {
  log::info("vm {} (id {}, pid {}): attached, {} MiB in {} blocks, group {}", vm->vm->name(),
            vm->vm->id().value, vm->vm->pid(), bytes(vm->vm->pages()).value >> 20, vm->ram.size(),
            vm->vm->record().group);
}

bool Host::forget_unused(const VmHandle& vm) { return rooms_->departures.forget_unused(vm); }
void Host::agent_ready(const VmHandle& vm) { rooms_->facts.look_again(vm); }
void Host::look_again(const VmHandle& vm) { rooms_->facts.look_again(vm); }
void Host::unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) {
  rooms_->consumers.wants_to_begin(vm, token, hazard);
}

}  // namespace ramfold::daemon
