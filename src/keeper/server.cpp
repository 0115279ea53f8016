// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/server.hpp"

#include <sys/signalfd.h>
#include <sys/socket.h>
#include <algorithm>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "keeper/log.hpp"
#include "sys/message.hpp"

namespace ramfold::keeper {
namespace {

bool hung_up(sys::BorrowedFd socket) noexcept {
  pollfd p{socket.get(), POLLRDHUP, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0;
}

std::string number(std::size_t n) { return std::to_string(n); }

}  // namespace

Server::Server(Table table, SystemdStore store, Closer closer, sys::Fd listener, sys::Fd signals)
    : table_(std::move(table)),
      store_(std::move(store)),
      closer_(std::move(closer)),
      listener_(std::move(listener)),
      signals_(std::move(signals)) {
  polled_.reserve(2 + kConnectionsMax + table_.entries_max());
}

// A descriptor that cannot be entered stays open: it may be the last one of its file.
void Server::restore(Passed passed) {
  foreign_ = passed.foreign;
  for (std::size_t i = 0; i < passed.fds.size(); ++i) {
    const Item item{passed.kinds[i], passed.names[i]};
    const auto added = table_.keep({&item, 1}, {&passed.fds[i], 1});
    if (Entry* entry = table_.find(item.kind, item.name); added && entry != nullptr) {
      entry->backed = true;
      passed.fds[i].reset();
    } else if (!added && added.error().code == ESRCH) {
      // The process ended while there was no keeper: its prefix is dropped below.
      continue;
    } else {
      log(Priority::error,
          "cannot enter stored '" + passed.names[i] + "': " + (added ? "" : added.error().text()));
      static_cast<void>(passed.fds[i].release());
      ++foreign_;
    }
  }
  for (std::size_t i = 0; i < passed.fds.size(); ++i) {
    if (!passed.fds[i] || passed.kinds[i] != Kind::watch) continue;
    Entry ended;
    ended.kind = Kind::watch;
    ended.size = static_cast<std::uint8_t>(passed.names[i].size());
    std::ranges::copy(passed.names[i], ended.text);
    store_.remove(ended);
    drop_prefix(passed.names[i]);
  }
  if (holding() != 0) log(Priority::info, "took back " + number(table_.size()) + " descriptors");
}

Server::Ended Server::run() {
  store_.tell_ready();
  tell_status();
  while (!may_end()) {
    collect_polled();
    // poll(2) fails at once when it gets no memory, or when the limit of open files was lowered.
    // The keeper must neither end nor spin then.
    if (::poll(polled_.data(), polled_.size(), wait_ms()) < 0 && errno != EINTR) {
      sleep_ns(kPollRest_ns);
      continue;
    }
    serve_polled();
    close_late();
    if (unbacked_ || !store_.idle()) back_up();
  }
  store_.tell("STOPPING=1");
  if (holding() != 0) {
    log(Priority::info, "making way for the next keeper: systemd holds all " + number(holding()));
    return Ended::later;
  }
  log(Priority::info, "asked to stop and holding nothing: done");
  return stop_refused_ || !stop_asked_ ? Ended::later : Ended::when_asked;
}

bool Server::may_end() const noexcept {
  if (stop_asked_ && holding() == 0) return true;
  return replace_asked_ && store_.present() && !unbacked_ && store_.idle();
}

int Server::wait_ms() const noexcept {
  if (unbacked_ || !store_.idle()) return kRetryEvery_ms;
  std::uint64_t first = UINT64_MAX;
  for (const Connection& c : connections_) {
    if (c.socket && !c.daemon) first = std::min(first, c.hello_until_ns);
  }
  const std::uint64_t now = monotonic_ns();
  if (accepts_again_ns_ > now) first = std::min(first, accepts_again_ns_);
  if (first == UINT64_MAX) return -1;
  return first <= now ? 0 : static_cast<int>((first - now) / 1'000'000 + 1);
}

// Unused connections are polled as -1, which poll(2) skips, so every connection has a fixed place.
void Server::collect_polled() {
  polled_.clear();
  const bool room =
      accepts_again_ns_ <= monotonic_ns() &&
      std::ranges::any_of(connections_, [](const Connection& c) { return !c.socket; });
  polled_.push_back({signals_.get(), POLLIN, 0});
  polled_.push_back({room ? listener_.get() : -1, POLLIN, 0});
  for (const Connection& c : connections_) polled_.push_back({c.socket.get(), POLLIN, 0});
  for (const Entry& e : table_.watches()) polled_.push_back({e.fd.get(), POLLIN, 0});
}

// Open connections come before new ones: so the place of a daemon that died is free when its
// successor is accepted.
void Server::serve_polled() {
  store_.be_patient();
  const auto ready = [&](std::size_t i) { return polled_[i].revents != 0; };
  constexpr std::size_t kFirst = 2;
  const bool ended = std::any_of(polled_.begin() + kFirst + kConnectionsMax, polled_.end(),
                                 [](const pollfd& p) { return p.revents != 0; });
  if (ended) drop_ended();
  for (std::size_t i = 0; i < kConnectionsMax; ++i) {
    if (ready(kFirst + i) && connections_[i].socket) serve(connections_[i]);
  }
  if (ready(1)) accept_one();
  if (ready(0)) read_signals();
}

void Server::read_signals() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal == SIGHUP) {
      replace_asked_ = store_.present();
      if (!replace_asked_)
        log(Priority::warning, "not replaced: there is no service manager to start a new keeper");
      if (unbacked_) log(Priority::info, "ends for a new keeper when systemd holds everything");
      continue;
    }
    const bool stop = signal == SIGTERM || signal == SIGINT || signal == SIGQUIT;
    if (!stop) continue;
    stop_asked_ = true;
    if (holding() == 0) continue;
    stop_refused_ = true;
    log(Priority::warning,
        "refused to stop (signal from pid " + number(info.ssi_pid) + "): guests depend on " +
            number(holding()) +
            " descriptors held here. `ramfold off` unfolds them; the keeper ends "
            "when it holds nothing.");
    store_.tell("STATUS=asked to stop; waiting until nothing is held (`ramfold off`)");
  }
}

void Server::accept_one() {
  sys::Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) {
    // The listener stays readable, so the keeper would spin if it polled it again at once.
    if (!sys::lacks_resources(errno)) return;
    accepts_again_ns_ = monotonic_ns() + kAcceptRest_ns;
    if (!std::exchange(cannot_accept_said_, true)) {
      log(Priority::error,
          std::string("nobody can be accepted: ") + std::strerror(errno) + ": trying again");
    }
    return;
  }
  cannot_accept_said_ = false;
  const auto peer = sys::peer_of(socket);
  if (!peer || peer->uid != ::geteuid()) {
    log(Priority::warning,
        "refused a connection of uid " + (peer ? number(peer->uid) : std::string("unknown")));
    return;
  }
  const auto place =
      std::ranges::find_if(connections_, [](const Connection& c) { return !c.socket; });
  if (place == connections_.end()) return;
  *place = Connection{std::move(socket), peer->pid, monotonic_ns() + kHelloWithin_ns, false};
}

void Server::close_late() noexcept {
  const std::uint64_t now = monotonic_ns();
  for (Connection& c : connections_) {
    if (c.socket && !c.daemon && c.hello_until_ns <= now) c = Connection{};
  }
}

void Server::close(Connection& connection, std::string_view why) {
  if (!why.empty()) {
    log(Priority::warning, "closed the connection of pid " +
                               number(static_cast<std::size_t>(connection.pid)) + ": " +
                               std::string(why));
  }
  connection = Connection{};
  tell_status();
}

void Server::serve(Connection& connection) {
  auto message = sys::receive(connection.socket, in_, MSG_DONTWAIT);
  if (!message) return close(connection, message.error().text());
  if (message->outcome == sys::Received::nothing_yet) return;
  if (message->outcome == sys::Received::closed) return close(connection, "");
  if (message->truncated) return close(connection, "a message that is too long");
  const auto request = parse(std::span(in_).first(message->size), message->fd_count);
  if (!request) return close(connection, request.error());
  if (handle(connection, *request, std::span(message->fds).first(message->fd_count)) ==
      After::close) {
    close(connection, "");
  }
}

Server::After Server::handle(Connection& connection, const Parsed& request,
                             std::span<sys::Fd> fds) {
  if (!connection.daemon && request.type != Type::hello) {
    log(Priority::warning, "closing a connection that did not say hello");
    return After::close;
  }
  switch (request.type) {
    case Type::hello: return greet(connection, request);
    case Type::keep: return keep(connection, request, fds);
    case Type::drop:
    case Type::drop_prefix: return drop(connection, request);
    case Type::take: return take(connection, request);
    default:
      return acknowledge(connection, request, ENOSYS, 0, "this keeper knows no such request");
  }
}

Server::After Server::greet(Connection& connection, const Parsed& request) {
  for (Connection& other : connections_) {
    if (!other.daemon || &other == &connection) continue;
    if (hung_up(other.socket)) {  // that daemon died; its unread requests were never acknowledged
      close(other, "");
      continue;
    }
    // Both processes belong to this user, so the new one could have killed the other one, too.
    if (other.pid == request.hello.replaces) {
      close(other, "nothing of it runs any more, says its successor");
      continue;
    }
    static_cast<void>(acknowledge(connection, request, EBUSY, 0,
                                  "another daemon is connected, pid " +
                                      number(static_cast<std::size_t>(other.pid)) +
                                      "; end it before starting this one"));
    return After::close;
  }
  if (request.hello.version_min > kVersionMax || request.hello.version_max < kVersionMin) {
    static_cast<void>(acknowledge(
        connection, request, EPROTONOSUPPORT, 0,
        "this keeper speaks versions " + number(kVersionMin) + " to " + number(kVersionMax)));
    return After::close;
  }
  connection.daemon = true;
  tell_status();
  Welcome welcome{};
  welcome.version = std::min(request.hello.version_max, kVersionMax);
  welcome.backed = store_.present() ? 1 : 0;
  welcome.held = static_cast<std::uint32_t>(table_.size());
  welcome.held_max = static_cast<std::uint32_t>(table_.entries_max());
  return reply(connection, write_welcome(out_, request.sequence, welcome), {});
}

Server::After Server::keep(Connection& connection, const Parsed& request, std::span<sys::Fd> fds) {
  const std::span<const Item> items(request.items.data(), request.count);
  const auto added = table_.keep(items, fds);
  if (!added) {
    // A watch on a process that has ended drops its prefix at once (L5).
    for (std::size_t i = 0; added.error().code == ESRCH && i < items.size(); ++i) {
      if (items[i].kind == Kind::watch && process_ended(fds[i])) drop_prefix(items[i].name);
    }
    return acknowledge(connection, request, added.error().code, 0, added.error().what);
  }
  if (*added != 0) {
    unbacked_ = store_.present();
    if (unbacked_) back_up();
  }
  return acknowledge(connection, request, 0, *added, "");
}

Server::After Server::drop(Connection& connection, const Parsed& request) {
  std::size_t count = 0;
  for (const Item& item : std::span(request.items).first(request.count)) {
    if (request.type == Type::drop_prefix) {
      count += drop_prefix(item.name);
    } else {
      count += table_.drop(item.name, [this](Entry& e) { let_go(e); });
    }
  }
  return acknowledge(connection, request, 0, count, "");
}

Server::After Server::take(Connection& connection, const Parsed& request) {
  const Item& last = request.items[0];
  const std::span<Entry> rest = table_.entries_after(last.kind, last.name);
  const std::size_t count = std::min(rest.size(), kBatchMax);
  std::array<Item, kBatchMax> items;
  std::array<int, kBatchMax> fds{};
  for (std::size_t i = 0; i < count; ++i) {
    items[i] = Item{rest[i].kind, rest[i].name()};
    fds[i] = rest[i].fd.get();
  }
  const std::size_t length = write_list(out_, Type::chunk, request.sequence,
                                        std::span(items).first(count), rest.size() > count);
  return reply(connection, length, std::span(fds).first(count));
}

Server::After Server::acknowledge(Connection& connection, const Parsed& request, int code,
                                  std::size_t count, std::string_view text) {
  return reply(connection, write_ack(out_, request.sequence, code, count, text), {});
}

// The keeper does not wait for a peer that does not read its replies: it closes the connection.
Server::After Server::reply(Connection& connection, std::size_t length, std::span<const int> fds) {
  const auto sent = sys::send(connection.socket, std::span(out_).first(length), fds, MSG_DONTWAIT);
  return sent ? After::stay : After::close;
}

void Server::let_go(Entry& entry) {
  if (entry.backed) store_.remove(entry);
  closer_.close(std::move(entry.fd));
}

std::size_t Server::drop_prefix(std::string_view prefix) {
  return table_.drop_prefix(prefix, [this](Entry& e) { let_go(e); });
}

void Server::drop_ended() {
  std::vector<std::string> ended;  // collected first, because dropping moves the entries
  for (const Entry& e : table_.watches()) {
    if (process_ended(e.fd)) ended.emplace_back(e.name());
  }
  for (const std::string& prefix : ended) {
    log(Priority::info,
        "the process of " + prefix + " has ended: dropped " + number(drop_prefix(prefix)));
  }
  tell_status();
}

void Server::back_up() {
  unbacked_ = !store_.flush();
  for (Entry& e : table_.entries()) {
    if (e.backed || unbacked_) continue;
    e.backed = store_.store(e);
    unbacked_ = !e.backed;
  }
  if (unbacked_ != store_behind_) {
    log(unbacked_ ? Priority::warning : Priority::info,
        unbacked_
            ? "systemd takes no descriptors at the moment; the keeper holds them and tries again"
            : "systemd's descriptor store is complete again");
  }
  store_behind_ = unbacked_;
}

void Server::tell_status() {
  if (!store_.present()) return;
  const bool daemon =
      std::ranges::any_of(connections_, [](const Connection& c) { return c.daemon; });
  store_.tell("STATUS=holding " + number(holding()) + " descriptors of at most " +
              number(table_.entries_max()) + (daemon ? "; daemon connected" : "; no daemon") +
              "; replace: systemctl reload ramfold-keeper; end: ramfold off first");
}

}  // namespace ramfold::keeper
