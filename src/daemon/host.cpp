// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/host.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>
#include <functional>
#include <utility>

#include "base/clock.hpp"
#include "daemon/bring_back/renewal.hpp"
#include "daemon/custody/may_attach.hpp"
#include "daemon/log.hpp"
#include "daemon/report/service.hpp"
#include "daemon/threads/apart.hpp"
#include "store/contents.hpp"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ramfold::daemon {
namespace {

constexpr std::uint64_t kStopNapNs = 1'000'000;
constexpr unsigned kStopWaits = 2000;  // of kStopNapNs

// The features that the kernel's userfaultfd offers. It offers at least those that folding needs.
Result<std::uint64_t> offered_features(sys::BorrowedFd device) {
  sys::Fd probe(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!probe) return fail_errno("make a userfaultfd");
  const auto offered = sys::Uffd::offered_features(probe);
  if (!offered) return offered;
  if ((*offered & sys::Uffd::kFeaturesNeeded) != sys::Uffd::kFeaturesNeeded) {
    return fail(
        "this kernel's userfaultfd cannot guard shared memory: Linux 6.7 or newer is needed");
  }
  return offered;
}

// Numbers this run of the daemon. It must differ from the number of the run before, and from 0.
std::uint32_t new_generation() noexcept {
  return std::max<std::uint32_t>(1,
                                 static_cast<std::uint32_t>(clock_ns(CLOCK_REALTIME) / 1'000'000));
}

}  // namespace

// The order matters: a room uses only rooms declared before it.
struct Host::Rooms {
  explicit Rooms(Host& h)
      : departures(h.vms_, h.keeping_, *h.contents_, h.stopping_),
        hand_over(h.vms_, h.keeping_, h.contents_->files(),
                  [this](const VmHandle& vm) { facts.look_again(vm); }),
        room(h.procfs_, h.policy_.current(),
             [this](GroupId group) { return work.mean_read_ns(group); }),
        consumers(h.retries_, room, *h.agents_, h.stopping_),
        detach(room, departures, *h.agents_, h.stopping_),
        off({h.state_, h.decisions_, h.vms_, h.keeping_, *h.contents_, departures, detach, room,
             h.retries_, *h.agents_, [this] { loop.judge(); }, h.stopping_}),
        renewal(h.retries_, detach, *h.agents_),
        facts(
            h.vms_, h.procfs_, [this](const VmHandle& vm) { consumers.has_begun(vm); },
            [this](const VmHandle& vm) { renewal.begin(vm); }, h.stopping_),
        recovery(h.vms_, h.keeping_, h.left_behind_, *h.adopter_, *h.agents_, h.stopping_),
        mappings({h.vms_, *h.contents_, h.keeping_, *h.agents_, h.state_, h.procfs_, h.stopping_}),
        work(h.vms_, *h.contents_, h.state_, *h.policy_.config(), {h.offered_, {}}),
        loop({h.policy_, h.decisions_, h.procfs_, h.device_, *h.pins_, h.state_, h.vms_,
              *h.contents_, h.keeping_, hand_over, departures, h.left_behind_, recovery, mappings,
              facts, work, off, *h.fault_pool_, h.stopping_}) {}

  Departures departures;
  HandOver hand_over;
  Room room;
  Consumers consumers;
  Detach detach;
  OffSwitch off;
  Renewal renewal;
  FactWatch facts;
  Recovery recovery;
  Mappings mappings;
  Work work;
  Loop loop;
};

Host::Host(Configuration configuration, std::unique_ptr<PinLoader> pins)
    : config_(configuration.config),
      decisions_(config_.state_dir, Decisions::boot_id()),
      pins_(std::move(pins)),
      started_ns_(monotonic_ns()),
      generation_(new_generation()),
      policy_(std::move(configuration), decisions_, vms_),
      keeping_(config_.keeper_socket()),
      left_behind_(procfs_) {}

Result<std::unique_ptr<Host>> Host::start(Configuration configuration,
                                          std::unique_ptr<PinLoader> pins) {
  std::unique_ptr<Host> host(new Host(std::move(configuration), std::move(pins)));
  auto lock = take_host_lock(host->config_.runtime_dir, host->procfs_);
  if (!lock) return std::unexpected(lock.error());
  host->lock_ = std::move(*lock);
  if (const auto& remains = host->lock_.remains) {
    log::warn("pid {}, a daemon that was killed, does not end: {} VMs hold it up", remains->pid,
              remains->vms.size());
    host->keeping_.replace(remains->pid);
  }
  if (Status opened = host->open_device(); !opened) return std::unexpected(opened.error());
  host->load_decisions();
  auto pool = fault::Pool::make();
  if (!pool) return std::unexpected(pool.error());
  host->fault_pool_ = std::move(*pool);
  // The pool starts before any VM needs it. If this fails, begin_threads() tries again.
  (void)host->fault_pool_->begin();
  if (Status taken = host->take_over_guests(); !taken) return std::unexpected(taken.error());
  if (Status opened = host->open_agents(); !opened) return std::unexpected(opened.error());
  host->rooms_ = std::make_unique<Rooms>(*host);
  host->rooms_->work.ask_through(*host->agents_);
  host->policy_.apply_with([h = host.get()](const policy::Config& config) {
    log::set_level(config.log_level);
    h->rooms_->work.set(config);
    h->rooms_->loop.judge();
  });
  host->rooms_->loop.judge();  // so that the first answer of the control socket tells true reasons
  host->go_on_with_decisions();
  (void)host->begin_threads();
  return host;
}

bool Host::begin_threads() {
  Status all;
  const auto need = [&all](Status begun) {
    if (!begun && all) all = std::move(begun);
  };
  const auto begin = [](sys::Thread& thread, const char* name,
                        std::function<void()> run) -> Status {
    if (thread) return {};
    auto begun = sys::Thread::start(name, std::move(run));
    if (!begun) return std::unexpected(begun.error());
    thread = std::move(*begun);
    return {};
  };
  need(fault_pool_->begin());
  need(agents_->begin());
  need(begin(looper_, "rf-loop", [this] { rooms_->loop.run(); }));
  need(begin(recoverer_, "rf-recoverer", [this] { recover(); }));
  need(rooms_->departures.begin());
  need(retries_.begin());
  if (!all && thread_complaint_.empty()) {
    thread_complaint_ = all.error().text();
    log::error("{}: trying again; the work of that thread waits", thread_complaint_);
  } else if (all && !thread_complaint_.empty()) {
    thread_complaint_.clear();
    log::info("all threads run");
  }
  return all.has_value();
}

Host::~Host() { stop(); }

Status Host::open_device() {
  device_ = sys::Fd(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device_) {
    return fail("open /dev/userfaultfd (Linux 6.1 or newer with CONFIG_USERFAULTFD is needed)",
                errno);
  }
  const auto offered = offered_features(device_);
  if (!offered) return std::unexpected(offered.error());
  offered_ = *offered;
  // Every VM's userfaultfd has those that folding needs, and POISON if the kernel has it.
  features_ = sys::Uffd::kFeaturesNeeded | (offered_ & sys::Uffd::kFeaturePoison);
  return {};
}

Status Host::take_over_guests() {
  auto taken = take_over(keeping_, procfs_, config_);
  if (!taken) return std::unexpected(taken.error());
  contents_ = std::move(taken->contents);
  adopter_ = std::make_unique<Adopter>(*contents_, policy_.current(), decisions_, fault_pool_);
  attacher_ = std::make_unique<Attacher>(*adopter_, features_);
  attacher_->number_after(taken->left.last);
  const std::size_t served =
      adopt_all(std::move(taken->left), lock_.remains, *adopter_, vms_, left_behind_);
  if (served == 0) return {};
  warn_of_groups(*policy_.config(), vms_.all());
  contents_->note_take_over();
  log::info("took over {} VMs; faults are served {:.1f} ms after the start", served,
            static_cast<double>(monotonic_ns() - started_ns_) / 1e6);
  return {};
}

void Host::load_decisions() {
  decisions_.load();
  if (const auto why = decisions_.unreadable()) log::error("decisions: {}", *why);
  state_.off.store(decisions_.since(HostDecision::off).has_value());
  state_.paused.store(decisions_.since(HostDecision::paused).has_value());
  policy_.begin();
  log::set_level(policy_.config()->log_level);  // it may have been set at run time
}

void Host::go_on_with_decisions() {
  if (state_.off) return rooms_->off.go_on();
  go_on_detaching(vms_.all(), decisions_, rooms_->detach, retries_);
}

Status Host::open_agents() {
  auto device = device_.duplicate();
  if (!device) return std::unexpected(device.error());
  auto agents = Agents::make(config_.agent_socket(), config_.agent_group, generation_,
                             std::move(*device), procfs_, vms_, *attacher_, *this);
  if (!agents) return std::unexpected(agents.error());
  agents_ = std::move(*agents);
  return {};
}

void Host::recover() {
  if (!rooms_->recovery.run()) return;
  state_.recovering.store(false);
  rooms_->loop.judge();
  rooms_->work.start();
  rooms_->recovery.count_rest();
}

void Host::stop() noexcept {
  begin_stop();
  if (stopped_.exchange(true) || !rooms_) return;
  recoverer_.join();
  rooms_->work.stop();
  looper_.join();
  retries_.stop();
  rooms_->departures.stop();
  agents_->stop();
  // The loop has ended, so this loop does its work: it finds threads for tasks that still wait for
  // one.
  for (unsigned i = 0; i < kStopWaits; ++i) {
    rooms_->departures.tend();
    for (const VmHandle& vm : vms_.all()) (void)stop_faults(vm, 0);
    if (count_held() == 0) break;
    sleep_ns(kStopNapNs);
  }
  // From here on this process must not change the store: the next daemon may use it already.
  // Threads that are held up, and the destructors of VMs, would otherwise release references.
  if (contents_) contents_->hand_over();
}

unsigned Host::count_held() const {
  const auto vms = vms_.all();
  const auto served =
      std::ranges::count_if(vms, [](const VmHandle& vm) { return !vm->faults_stopped; });
  return count_apart() + static_cast<unsigned>(served);
}

void Host::make_way() noexcept {
  mark_left_behind(vms_.all(), procfs_);
  // The end of the process would do this, but held threads delay that end.
  keeping_.disconnect();
  lock_.file.reset();
}

std::unique_ptr<control::Service> Host::make_service() {
  Rooms& r = *rooms_;
  return std::make_unique<HostService>(
      HostService::Parts{policy_, decisions_, procfs_, state_, vms_, *contents_, keeping_,
                         r.departures, *agents_, r.facts, r.work, r.detach, r.renewal, r.off,
                         r.consumers, *fault_pool_, [&r] { r.loop.judge(); }, started_ns_});
}

bool Host::wanted(const WaitingAgent& agent) {
  return may_attach({state_, policy_, decisions_, left_behind_}, key_of(decisions_, agent),
                    agent.pid, agent.start_ticks);
}

void Host::reload() {
  const bool mended = policy_.reload();
  warn_of_groups(*policy_.config(), vms_.all());
  if (mended) agents_->invite_all();
}

void Host::attached(const VmHandle& vm) {
  policy_.attached(*vm);
  log::info("vm {} (id {}, pid {}): attached, {} MiB in {} blocks, group {}", vm->vm->name(),
            vm->vm->id().value, vm->vm->pid(), bytes(vm->vm->pages()).value >> 20, vm->ram.size(),
            vm->vm->record().group);
  (void)rooms_->hand_over.begin();  // if it fails, the loop tries again
}

bool Host::forget_unused(const VmHandle& vm) { return rooms_->departures.forget_unused(vm); }
void Host::agent_ready(const VmHandle& vm) { rooms_->facts.look_again(vm); }
void Host::fenced(const VmHandle& vm) { rooms_->mappings.fenced(vm); }
void Host::look_again(const VmHandle& vm) { rooms_->facts.look_again(vm); }
void Host::unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) {
  rooms_->consumers.wants_to_begin(vm, token, hazard);
}

}  // namespace ramfold::daemon
