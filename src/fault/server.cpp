// SPDX-License-Identifier: GPL-2.0-or-later
#include "fault/server.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <algorithm>
#include <chrono>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "sys/interrupt.hpp"
#include "sys/priority.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::fault {
namespace {

constexpr int kPollMs = 1000;  // where threads take contents from each other
constexpr std::chrono::milliseconds kInterruptSoon{1}, kInterruptSeldom{256};
constexpr std::uint64_t kErrorNapNs = 1'000'000;

Need need_of(const uffd_msg& event) noexcept {
  if ((event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) return Need::lift;
  return (event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0 ? Need::write : Need::read;
}

void poke(const sys::Fd& eventfd) noexcept {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd.get(), &one, sizeof one);
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(guest::Vm& vm, store::ContentSource& source,
                                              GroupId group, unsigned threads) {
  if (threads > kThreadsMax) return fail("too many fault threads for one VM");
  sys::Fd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return fail_errno("eventfd");
  std::unique_ptr<Server> server(new Server(vm, source, group, std::move(wake), threads));
  for (unsigned i = 0; i < threads; ++i) {
    server->threads_.emplace_back([s = server.get(), i] { s->run(i); });
  }
  return server;
}

Server::Server(guest::Vm& vm, store::ContentSource& source, GroupId group, sys::Fd wake,
               unsigned threads)
    : vm_(vm), filler_(vm, source, group, stopping_), wake_(std::move(wake)), cpu_(threads) {}

Server::~Server() { stop(); }

std::uint64_t Server::cpu_ns() const noexcept {
  std::uint64_t sum = 0;
  for (const ThreadCpu& cpu : cpu_) sum += cpu.ns();
  return sum;
}

void Server::stop() noexcept {
  stopping_.store(true);
  // Again and again: a thread that has looked at `stopping_` and does not sleep yet misses it. Less
  // and less often: a VM may hold one for as long as it lives.
  auto again = kInterruptSoon;
  for (std::size_t left = threads_.size(); left != 0;
       again = std::min(again * 2, kInterruptSeldom)) {
    for (std::thread& t : threads_) sys::interrupt(t.native_handle());
    while (left != 0 && ended_.try_acquire_for(again)) --left;
  }
  for (std::thread& t : threads_) t.join();
  threads_.clear();
}

void Server::run(unsigned number) noexcept {
  sys::name_this_thread(vm_.id(), "fault");
  sys::let_interrupt_this_thread();
  ThreadCpu& cpu = cpu_[number];
  FillerThread me(vm_.fillings()[guest::Fillings::kFaultFirst + number]);
  cpu.started();
  sys::prefer_this_thread();
  std::array<uffd_msg, kBatch> events;
  std::size_t served = 0;
  while (!stopping_.load(std::memory_order_relaxed)) {
    // Between a wake-up and the next poll there is nothing that can wait: where the woken thread
    // has this core, it runs only then. Only a full batch may have left events behind.
    if (served != kBatch) wait_for_work();
    const auto read = vm_.uffd().read_events(events);
    served = 0;
    if (!read) {
      vm_.counters().errors.add();
      sleep_ns(kErrorNapNs);
      continue;
    }
    served = *read;
    for (std::size_t i = 0; i < served; ++i) serve_event(events[i], me);
    // Also while events keep coming: those that find no place come again until there is one.
    if (any_ready_.load(std::memory_order_relaxed) &&
        any_ready_.exchange(false, std::memory_order_acq_rel)) {
      serve_ready(me);
    }
  }
  cpu.ended();
  ended_.release();
}

// A second descriptor costs a fault 0.2 us and a timer 0.6 (a guest and its fault thread on one
// core), so they are left out where nothing but an event or a stop can come, and a stop does not
// rely on them: while the only thread has nothing parked. What it parks, it has parked before it
// comes here.
void Server::wait_for_work() noexcept {
  std::array<pollfd, 2> waits{pollfd{vm_.uffd().fd(), POLLIN, 0}, pollfd{wake_.get(), POLLIN, 0}};
  const bool only_events = cpu_.size() == 1 && parked_count_.load(std::memory_order_relaxed) == 0;
  TEST_POINT("fault.wait");
  (void)::poll(waits.data(), only_events ? 1 : 2, only_events ? -1 : kPollMs);
  if ((waits[1].revents & POLLIN) != 0) {
    // Emptied before the flag is looked at: a ticket that becomes ready later pokes again.
    std::uint64_t count = 0;
    [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
  }
  if ((waits[0].revents & (POLLERR | POLLHUP)) != 0 && (waits[0].revents & POLLIN) == 0) {
    sleep_ns(kErrorNapNs);  // never spin on a descriptor that only reports an error
  }
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
    // As many as may wait for the store do. This one faults again until there is a place.
    vm_.counters().faults_busy.add();
    vm_.wake({*page, PageCount{1}});
    return;
  }
  place->page = *page;
  place->need = need;
  place->since_ns = began;
  const store::FetchTicket ticket{this, static_cast<std::uint64_t>(place - parked_.data())};
  const guest::LoadedWord word = vm_.table().load(*page);
  const bool zero = word && (word->tag() != guest::Tag::folded || word->content() == kZeroContent);
  const Served served = filler_.serve(*page, need, ticket, me);
  if (served == Served::pending) {
    vm_.counters().faults_pending.add();
    return;  // ready() may already have been called; the table says so
  }
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

void Server::serve_ready(FillerThread& me) noexcept {
  for (Parked& place : parked_) {
    ParkedState is = ParkedState::ready;
    if (!place.state.compare_exchange_strong(is, ParkedState::fetching, std::memory_order_acq_rel))
      continue;
    const store::FetchTicket ticket{this, static_cast<std::uint64_t>(&place - parked_.data())};
    const Served served = filler_.resume(place.page, place.need, ticket, me);
    if (served == Served::pending) continue;
    account(served, false, place.since_ns);
    unpark(place);
  }
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
    case Served::poisoned:
    case Served::again:
    case Served::abandoned: break;
  }
}

}  // namespace ramfold::fault
