// SPDX-License-Identifier: GPL-2.0-or-later
#include "fault/pool.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "store/content_source.hpp"
#include "sys/interrupt.hpp"
#include "sys/priority.hpp"

namespace ramfold::fault {

struct Pool::Worker {
  sys::Thread thread GUARDED_BY(&Pool::mutex_);
  pthread_t handle GUARDED_BY(&Pool::mutex_){};
  pid_t tid GUARDED_BY(&Pool::mutex_) = 0;
  bool has_begun GUARDED_BY(&Pool::mutex_) = false;  // `handle` and `tid` are set
  // The thread ends when it is next idle, unless an event comes first. It does not count as idle.
  bool ends GUARDED_BY(&Pool::mutex_) = false;
  bool has_ended GUARDED_BY(&Pool::mutex_) = false;
  Client* at GUARDED_BY(&Pool::mutex_) = nullptr;
};

namespace {

constexpr std::uint64_t kLookEveryNs = 100'000'000;  // for quiet VMs and surplus threads
// A thread without progress is held: after kHeldNs if it sleeps, after kHeldAwakeNs if it is
// runnable (on a busy machine it may only wait for a processor).
constexpr std::uint64_t kHeldNs = 5'000'000;
constexpr std::uint64_t kHeldAwakeNs = 1'000'000'000;
constexpr unsigned kHeldPart = 4;  // one more spare per so many held threads
constexpr unsigned kSurplusLooks = 10;
constexpr std::uint64_t kAskSoonNs = 1'000'000, kAskSeldomNs = 256'000'000;
constexpr std::uint64_t kUnseen = ~std::uint64_t{0};

std::uint64_t cpu_of(pthread_t thread) noexcept {
  clockid_t clock{};
  timespec t{};
  if (::pthread_getcpuclockid(thread, &clock) != 0 || ::clock_gettime(clock, &t) != 0) return 0;
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(t.tv_nsec);
}

}  // namespace

bool Client::stays() const noexcept {
  return !leave_.load(std::memory_order_relaxed) && !pool_->is_pressed();
}

void Client::invite() const noexcept { pool_->arm(*this, EPOLL_CTL_MOD); }

Pool::Pool(sys::Fd epoll) noexcept : epoll_(std::move(epoll)) {}

Result<std::shared_ptr<Pool>> Pool::make() {
  sys::Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll) return fail_errno("epoll_create1");
  return std::shared_ptr<Pool>(new Pool(std::move(epoll)));
}

Pool::~Pool() {
  {
    const MutexLock lock(mutex_);
    ENSURE(clients_.empty());
    stopping_ = true;
  }
  changed_.notify_one();
  manager_.join();
  const MutexLock lock(mutex_);
  while (!workers_.empty()) {
    for (const auto& worker : workers_) {
      worker->ends = true;
      if (worker->has_begun && !worker->has_ended) sys::interrupt(worker->handle);
    }
    changed_.wait_for(mutex_, std::chrono::nanoseconds(kAskSoonNs));
    join_ended();
  }
}

Status Pool::begin() {
  const MutexLock lock(mutex_);
  if (manager_ || stopping_) return {};
  auto thread = sys::Thread::start("rf-faults", [this] { manage(); });
  if (!thread) return std::unexpected(thread.error());
  manager_ = std::move(*thread);
  return {};
}

Status Pool::add(Client& client, int events, int wake, unsigned places) {
  ENSURE(places >= 1 && places <= Client::kPlacesMax);
  const MutexLock lock(mutex_);
  client.pool_ = this;
  client.places_ = places;
  client.events_ = events;
  client.wake_ = wake;
  client.key_ = next_key_;
  epoll_event event{EPOLLIN | EPOLLONESHOT, {.u64 = client.key_}};
  epoll_event woken{EPOLLIN | EPOLLONESHOT, {.u64 = client.key_ + 1}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, events, &event) != 0) return fail_errno("epoll_ctl");
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake, &woken) != 0) {
    const int code = errno;
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, events, nullptr);
    return fail("epoll_ctl", code);
  }
  clients_.emplace(client.key_, &client);
  next_key_ += 2;
  return {};
}

bool Pool::remove(Client& client, std::uint64_t patience_ns) noexcept {
  const MutexLock lock(mutex_);
  const auto it = clients_.find(client.key_);
  if (it == clients_.end() || it->second != &client) return true;
  if (!client.stopping_) {
    // Closing our descriptor would not remove it from the set, because the agent shares the open
    // file.
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, client.events_, nullptr);
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, client.wake_, nullptr);
    client.stopping_ = true;
  }
  const std::uint64_t began_ns = monotonic_ns();
  // Asks again and again: a thread misses the request if it has just called stays() and does not
  // sleep yet. The pauses grow, because a VM may hold a thread as long as it lives.
  for (std::uint64_t pause_ns = kAskSoonNs; client.taken_ != 0;
       pause_ns = std::min(pause_ns * 2, kAskSeldomNs)) {
    ask_to_leave(client);
    const std::uint64_t spent_ns = monotonic_ns() - began_ns;
    if (spent_ns >= patience_ns) return false;
    left_.wait_for(mutex_, std::chrono::nanoseconds(std::min(pause_ns, patience_ns - spent_ns)));
  }
  clients_.erase(client.key_);
  return true;
}

std::uint64_t Pool::cpu_ns(const Client& client) const noexcept {
  const MutexLock lock(mutex_);
  std::uint64_t sum = client.cpu_left_ns_;
  for (const Client::Place& place : client.at_) {
    // A thread leaves its place only under the mutex, so this thread exists.
    if (place.worker != nullptr) sum += cpu_of(place.worker->handle) - place.cpu_began_ns;
  }
  return sum;
}

Pool::Figures Pool::figures() const {
  const MutexLock lock(mutex_);
  const auto serving = std::ranges::count_if(workers_, [this](const auto& worker) {
    mutex_.is_held();
    return worker->at != nullptr;
  });
  return {static_cast<unsigned>(workers_.size()), static_cast<unsigned>(serving), held_};
}

// --- the manager

void Pool::manage() {
  sys::prefer_this_thread();
  const MutexLock lock(mutex_);
  std::uint64_t held_look_ns = monotonic_ns();
  std::uint64_t look_ns = held_look_ns;
  while (!stopping_) {
    keep_spares();
    if (stopping_) break;
    // The manager is notified only by a thread that leaves no idle thread behind.
    changed_.wait_for(mutex_, std::chrono::nanoseconds(is_pressed() ? kHeldNs : kLookEveryNs));
    const std::uint64_t now = monotonic_ns();
    if (now - held_look_ns >= kHeldNs) {
      look_for_held();
      held_look_ns = now;
    }
    if (now - look_ns < kLookEveryNs) continue;
    look_ns = now;
    send_quiet_ones_away();
    end_surplus();
    join_ended();
  }
}

void Pool::look_for_held() noexcept {
  const std::uint64_t now_ns = monotonic_ns();
  held_ = 0;
  for (const auto& [key, client] : clients_) {
    if (client->taken_ == 0) continue;
    for (unsigned i = 0; i < client->places_; ++i) {
      Client::Place& place = client->at_[i];
      if (place.worker == nullptr) continue;
      const std::uint64_t turn = client->turns_[i].now();
      const bool waits = (turn & 1) != 0;
      if (turn != place.turn_seen) place.moved_ns = now_ns;
      place.held =
          !waits && turn == place.turn_seen &&
          (now_ns - place.moved_ns >= kHeldAwakeNs || !sys::is_runnable(place.worker->tid));
      place.turn_seen = turn;
      held_ += place.held ? 1 : 0;
    }
  }
}

void Pool::send_quiet_ones_away() noexcept {
  for (const auto& [key, client] : clients_) {
    if (client->taken_ == 0) continue;
    const std::uint64_t served = client->served_.load(std::memory_order_relaxed);
    if (served == client->served_seen_) ask_to_leave(*client);
    client->served_seen_ = served;
  }
}

void Pool::keep_spares() {
  while (!stopping_ && idle_.load() < kSpareMin + held_ / kHeldPart &&
         workers_.size() < kFewMax + held_) {
    if (!add_worker()) {
      short_.store(is_pressed());
      return;
    }
  }
  short_.store(false);
}

bool Pool::add_worker() {
  auto made = std::make_unique<Worker>();
  Worker* const worker = made.get();
  workers_.push_back(std::move(made));
  idle_.fetch_add(1);
  mutex_.unlock();
  auto thread = sys::Thread::start("rf-fault", [this, worker] { work(*worker); });
  mutex_.lock();
  if (thread) {
    worker->thread = std::move(*thread);
    return true;
  }
  idle_.fetch_sub(1);
  std::erase_if(workers_, [worker](const auto& one) { return one.get() == worker; });
  return false;
}

void Pool::end_surplus() noexcept {
  const unsigned idle = idle_.load();
  const unsigned most = kSpareMax + held_ / kHeldPart;
  surplus_looks_ = idle > most ? surplus_looks_ + 1 : 0;
  unsigned surplus = surplus_looks_ >= kSurplusLooks ? idle - most : 0;
  for (const auto& worker : workers_) {
    if (worker->at != nullptr || worker->has_ended || !worker->has_begun) continue;
    if (!worker->ends) {
      if (surplus == 0) continue;
      --surplus;
      worker->ends = true;
      idle_.fetch_sub(1);
    }
    sys::interrupt(worker->handle);
  }
}

void Pool::join_ended() {
  std::vector<std::unique_ptr<Worker>> ended;
  for (auto& worker : workers_) {
    // `thread` is empty while add_worker() is still starting it.
    if (worker->has_ended && worker->thread) ended.push_back(std::move(worker));
  }
  if (ended.empty()) return;
  std::erase(workers_, nullptr);
  mutex_.unlock();
  ended.clear();
  mutex_.lock();
}

void Pool::ask_to_leave(Client& client) const noexcept {
  client.leave_.store(true, std::memory_order_relaxed);
  for (const Client::Place& place : client.at_) {
    if (place.worker != nullptr) sys::interrupt(place.worker->handle);
  }
}

// --- a worker

void Pool::work(Worker& me) noexcept {
  sys::let_interrupt_this_thread();
  sys::prefer_this_thread();
  store::prepare_to_read();  // so that serving a fault allocates nothing
  {
    const MutexLock lock(mutex_);
    me.handle = ::pthread_self();
    me.tid = ::gettid();
    me.has_begun = true;
  }
  for (;;) {
    epoll_event event{};
    const int n = ::epoll_wait(epoll_.get(), &event, 1, -1);
    Client* client = nullptr;
    unsigned place = 0;
    {
      const MutexLock lock(mutex_);
      if (n == 1) client = take(me, event.data.u64 & ~std::uint64_t{1}, place);
      if (client == nullptr && me.ends) {
        me.has_ended = true;
        changed_.notify_one();
        return;
      }
    }
    if (client == nullptr) continue;
    client->serve(place);
    leave(me, *client, place);
  }
}

// Null: the client stops, or all its places are taken. In the second case the next thread that
// leaves it arms it again.
Client* Pool::take(Worker& me, std::uint64_t key, unsigned& place) noexcept {
  const auto it = clients_.find(key);
  if (it == clients_.end()) return nullptr;
  Client& client = *it->second;
  if (client.stopping_ || client.taken_ == client.places_) return nullptr;
  if (client.taken_ != 0 && workers_.size() > kFewMax) return nullptr;
  while (client.at_[place].worker != nullptr) ++place;
  client.at_[place] = {&me, thread_cpu_ns(), kUnseen, 0, false};
  if (client.taken_++ == 0) {
    client.leave_.store(false, std::memory_order_relaxed);
    client.served_seen_ = kUnseen;
  }
  client.turns_[place].move_on();
  me.at = &client;
  // A thread with `ends` set did not count as idle.
  if (std::exchange(me.ends, false)) return &client;
  if (idle_.fetch_sub(1) == 1) changed_.notify_one();
  return &client;
}

void Pool::leave(Worker& me, Client& client, unsigned place) noexcept {
  const MutexLock lock(mutex_);
  Client::Place& left = client.at_[place];
  client.cpu_left_ns_ += thread_cpu_ns() - left.cpu_began_ns;
  if (left.held) --held_;
  left = {};
  --client.taken_;
  me.at = nullptr;
  idle_.fetch_add(1);
  if (client.stopping_) {
    left_.notify_all();
  } else {
    arm(client, EPOLL_CTL_MOD);
  }
}

void Pool::arm(const Client& client, int operation) const noexcept {
  epoll_event event{EPOLLIN | EPOLLONESHOT, {.u64 = client.key_}};
  (void)::epoll_ctl(epoll_.get(), operation, client.events_, &event);
  event.data.u64 = client.key_ + 1;
  (void)::epoll_ctl(epoll_.get(), operation, client.wake_, &event);
}

}  // namespace ramfold::fault
