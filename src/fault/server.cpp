// SPDX-License-Identifier: GPL-2.0-or-later
#include "fault/server.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <utility>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::fault {
namespace {

// Bounds a wait, since threads may take each other's wake-ups. With test points it does not: a test
// then sees a wake-up that was missed.
#ifdef RAMFOLD_TEST_POINTS
constexpr int kPollMs = 3'600'000;
#else
constexpr int kPollMs = 1000;
#endif
constexpr std::uint64_t kErrorNapNs = 1'000'000;
// The pause between two attempts to read a content: doubles from kRestNs to kRestNsMax.
constexpr std::uint64_t kRestNs = 1'000'000;
constexpr std::uint64_t kRestNsMax = 1'000'000'000;
constexpr unsigned kDoublings = 10;

Need need_of(const uffd_msg& event) noexcept {
  if ((event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) return Need::lift;
  return (event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0 ? Need::write : Need::read;
}

void poke(const sys::Fd& eventfd) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd.get(), &one, sizeof one);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(std::shared_ptr<Pool> pool, guest::Vm& vm,
                                              store::ContentSource& source, GroupId group,
                                              unsigned threads) {
  if (threads == 0 || threads > kThreadsMax) return fail("too many fault threads for one VM");
  sys::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return fail_errno("eventfd");
  std::unique_ptr<Server> server(new Server(std::move(pool), vm, source, group, std::move(wake)));
  const Status added = server->pool_->add(*server, vm.uffd().fd(), server->wake_.get(), threads);
  if (!added) return std::unexpected(added.error());
  return server;
}

Server::Server(std::shared_ptr<Pool> pool, guest::Vm& vm, store::ContentSource& source,
               GroupId group, sys::Fd wake)
    : pool_(std::move(pool)),
      vm_(vm),
      source_(source),
      filler_(vm, source, group, stopping_),
      wake_(std::move(wake)) {}

Server::~Server() { stop(); }

bool Server::stop(std::uint64_t patience_ns) noexcept {
  stopping_.store(true);
  if (!pool_->remove(*this, patience_ns)) return false;
  if (let_go_.exchange(true)) return true;
  source_.withdraw(*this);
  forget_parked();
  return true;
}

void Server::serve(unsigned place) noexcept {
  // From here on a call on the VM's memory may be under way (daemon/custody/predecessor.hpp).
  sys::name_this_thread(vm_.id(), "fault");
  FillerThread me(vm_.fillings()[guest::Fillings::kFaultFirst + place]);
  std::array<uffd_msg, kBatch> events;
  bool invites = !is_single();
  Spinning spinning;
  std::size_t served = kBatch;
  do {
    // What can be done later is not done between a wake-up and the next poll: a woken vCPU that
    // shares this core runs only when this thread waits. Only a full batch may leave events behind.
    if (served != kBatch && !spin(spinning)) wait_for_work(place);
    const auto read = vm_.uffd().read_events(events);
    served = 0;
    if (!read) {
      vm_.counters().errors.add();
      sleep_ns(kErrorNapNs);
      continue;
    }
    served = *read;
    if (served != 0) note_served();
    // After the read: an event that this thread has read should bring no other thread.
    if (std::exchange(invites, false)) invite();
    const std::uint64_t began_ns = monotonic_ns();
    for (std::size_t i = 0; i < served; ++i) {
      serve_event(events[i], me);
      move_on(place);
    }
    if (served != 0) spinning.served(monotonic_ns() - began_ns);
    // Also while events keep coming: an event that finds no place comes again until there is one.
    if ((any_ready_.load(std::memory_order_relaxed) &&
         any_ready_.exchange(false, std::memory_order_acq_rel)) ||
        resting_count_.load(std::memory_order_relaxed) != 0) {
      serve_parked(me);
      note_served();
    }
  } while (goes_on());
  // A count that is left in the eventfd would bring a thread for nothing.
  empty_wake();
  if (!stopping_.load() && any_ready_.exchange(false, std::memory_order_acq_rel)) serve_parked(me);
  // Pages that rest need a thread when their time comes.
  if (!stopping_.load() && resting_count_.load(std::memory_order_relaxed) != 0) poke(wake_);
  sys::name_this_thread("rf-fault");
}

void Server::empty_wake() noexcept {
  // Emptied before the flag is looked at: a ticket that becomes ready later pokes again.
  std::uint64_t count = 0;
  [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
}

// True: there is something to do. The thread offers its core to others at each look, so it takes
// little more than idle time.
bool Server::spin(Spinning& spinning) noexcept {
  if (!spinning.begins()) return false;
  const std::uint64_t began_ns = monotonic_ns();
  std::uint64_t now_ns = began_ns;
  bool came = false;
  while (!came && goes_on() && now_ns - began_ns < Spinning::kSpinNs) {
    pollfd events{vm_.uffd().fd(), POLLIN, 0};
    came = (::poll(&events, 1, 0) == 1 && (events.revents & POLLIN) != 0) ||
           any_ready_.load(std::memory_order_relaxed);
    if (!came) ::sched_yield();
    now_ns = monotonic_ns();
  }
  spinning.ended(now_ns - began_ns, came);
  vm_.counters().spun_ns.add(now_ns - began_ns);
  return came;
}

// A second descriptor costs a fault 0.2 us, and a timer 0.6 us (a guest and its fault thread on one
// core). Both are left out when only an event or a signal can come: when this is the only thread
// and nothing is parked. This thread parks nothing while it waits. The signal asks it to leave, and
// comes again until it has left.
void Server::wait_for_work(unsigned place) noexcept {
  std::array<pollfd, 2> waits{pollfd{vm_.uffd().fd(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
  const bool only_events = is_single() && parked_count_.load(std::memory_order_relaxed) == 0;
  TEST_POINT("fault.wait");
  begin_wait(place);
  (void)::poll(waits.data(), only_events ? 1 : 2, only_events ? -1 : poll_ms());
  move_on(place);
  if ((waits[1].revents & POLLIN) != 0) empty_wake();
  if ((waits[0].revents & (POLLERR | POLLHUP)) != 0 && (waits[0].revents & POLLIN) == 0) {
    sleep_ns(kErrorNapNs);  // never spin on a descriptor that only reports an error
  }
}

// How long to wait: until the first page that rests is due, at most kPollMs.
int Server::poll_ms() const noexcept {
  if (resting_count_.load(std::memory_order_relaxed) == 0) return kPollMs;
  const std::uint64_t now = monotonic_ns();
  std::uint64_t wait_ns = std::uint64_t{kPollMs} * 1'000'000;
  for (const Parked& place : parked_) {
    if (place.state.load(std::memory_order_acquire) != ParkedState::resting) continue;
    const std::uint64_t due = place.due_ns.load(std::memory_order_relaxed);
    wait_ns = std::min(wait_ns, due > now ? due - now : 0);
  }
  return static_cast<int>((wait_ns + 999'999) / 1'000'000);
}

void Server::serve_event(const uffd_msg& event, FillerThread& me) noexcept {
  if (event.event != UFFD_EVENT_PAGEFAULT) return;  // none other is negotiated (L2)
  const std::uint64_t began = monotonic_ns();
  const HostVirt address{event.arg.pagefault.address};
  const auto page = vm_.page_at(address);
  if (!page) {
    // Nothing of ours is registered there any more. The waiter must not sleep for ever.
    (void)vm_.uffd().wake({HostVirt{address.value & ~(kPageSize - 1)}, ByteCount{kPageSize}});
    return;
  }
  const Need need = need_of(event);
  Parked* const place = park();
  if (place == nullptr) {
    // kParkedMax pages are parked already. The VM's thread faults again until there is a place.
    vm_.counters().faults_busy.add();
    vm_.wake({*page, PageCount{1}});
    return;
  }
  place->page = *page;
  place->need = need;
  place->since_ns = began;
  place->failures = 0;
  const store::FetchTicket ticket{this, static_cast<std::uint64_t>(place - parked_.data())};
  const guest::LoadedWord word = vm_.table().load(*page);
  const bool zero = word && (word->tag() != guest::Tag::folded || word->content() == kZeroContent);
  const Served served = filler_.serve(*page, need, ticket, me);
  if (served == Served::pending) {
    vm_.counters().faults_pending.add();
    return;  // ready() may already have been called; the table says so
  }
  if (served == Served::failed) return rest(*place);
  unpark(*place);
  account(served, zero, began);
}

Server::Parked* Server::park() noexcept {
  const std::size_t start = parked_count_.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < kParkedMax; ++i) {
    Parked& place = parked_[(start + i) % kParkedMax];
    ParkedState free = ParkedState::free;
    if (place.state.compare_exchange_strong(free, ParkedState::fetching,
                                            std::memory_order_acq_rel)) {
      parked_count_.fetch_add(1, std::memory_order_relaxed);
      return &place;
    }
  }
  return nullptr;
}

void Server::ready(store::FetchTicket ticket) noexcept {
  parked_[ticket.token].state.store(ParkedState::ready, std::memory_order_release);
  any_ready_.store(true, std::memory_order_release);
  poke(wake_);
}

void Server::serve_parked(FillerThread& me) noexcept {
  const std::uint64_t now = monotonic_ns();
  for (Parked& place : parked_) {
    ParkedState is = place.state.load(std::memory_order_acquire);
    const bool rested =
        is == ParkedState::resting && place.due_ns.load(std::memory_order_relaxed) <= now;
    if ((!rested && is != ParkedState::ready) ||
        !place.state.compare_exchange_strong(is, ParkedState::fetching, std::memory_order_acq_rel))
      continue;
    if (rested) resting_count_.fetch_sub(1, std::memory_order_relaxed);
    const store::FetchTicket ticket{this, static_cast<std::uint64_t>(&place - parked_.data())};
    const Served served = filler_.resume(place.page, place.need, ticket, me);
    if (served == Served::pending) continue;
    if (served == Served::failed) {
      rest(place);
      continue;
    }
    account(served, false, place.since_ns);
    unpark(place);
  }
}

// REQUIRES: this thread works on it. An error is counted once for each fault; the store's owner
// logs the reason.
void Server::rest(Parked& place) noexcept {
  if (place.failures == 0) vm_.counters().errors.add();
  const std::uint64_t ns = std::min(kRestNs << std::min(place.failures++, kDoublings), kRestNsMax);
  place.due_ns.store(monotonic_ns() + ns, std::memory_order_relaxed);
  resting_count_.fetch_add(1, std::memory_order_relaxed);
  place.state.store(ParkedState::resting, std::memory_order_release);
}

// REQUIRES: no thread runs, and the source knows of no waiter.
void Server::forget_parked() noexcept {
  for (Parked& place : parked_) {
    if (place.state.load(std::memory_order_acquire) == ParkedState::free) continue;
    filler_.give_up(place.page);
    unpark(place);
  }
  resting_count_.store(0, std::memory_order_relaxed);
}

void Server::unpark(Parked& place) noexcept {
  place.state.store(ParkedState::free, std::memory_order_release);
  parked_count_.fetch_sub(1, std::memory_order_relaxed);
}

void Server::account(Served served, bool zero, std::uint64_t since_ns) noexcept {
  guest::VmCounters& counters = vm_.counters();
  const std::uint64_t ns = monotonic_ns() - since_ns;
  switch (served) {
    case Served::filled:
      (zero ? counters.faults_zero : counters.faults_content).add();
      (zero ? counters.latency_zero : counters.latency_content).record(ns);
      break;
    case Served::zeroed:
      counters.faults_zero.add();
      counters.latency_zero.record(ns);
      break;
    case Served::lifted:
      counters.faults_write_guarded.add();
      counters.latency_guarded.record(ns);
      break;
    case Served::late: counters.faults_late.add(); break;
    case Served::busy: counters.faults_busy.add(); break;
    case Served::pending:
    case Served::failed:
    case Served::poisoned:
    case Served::again:
    case Served::abandoned: break;
  }
}

}  // namespace ramfold::fault
