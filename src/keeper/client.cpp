// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/client.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <array>

#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "sys/message.hpp"

namespace ramfold::keeper {
namespace {

Status check_item(const Item& item) {
  const bool prefix = item.kind == Kind::watch;
  if (prefix ? valid_prefix(item.name) : valid_name(item.name)) return {};
  return fail("keeper: '" + std::string(item.name.substr(0, 2 * kNameMax)) +
                  (prefix ? "' is no prefix (a name that ends in '.')"
                          : "' is no name ([a-z0-9._-]{1,64})"),
              EINVAL);
}

}  // namespace

Result<Client> Client::connect(const std::string& path, std::chrono::milliseconds answer_within,
                               pid_t replaces) {
  auto socket = sys::connect_seqpacket(path);
  if (!socket) return fail("keeper: " + socket.error().what, socket.error().code);
  const auto peer = sys::peer_of(*socket);
  if (!peer) return std::unexpected(peer.error());
  if (peer->uid != ::geteuid() && peer->uid != 0) {
    return fail("keeper: " + path + " is served by uid " + std::to_string(peer->uid), EACCES);
  }
  Client client(std::move(*socket), answer_within);
  if (const Status ok = client.greet(replaces); !ok) return std::unexpected(ok.error());
  return client;
}

Status Client::greet(pid_t replaces) {
  const std::size_t length = write_hello(out_, ++sequence_, replaces);
  const auto reply = exchange(length, {}, nullptr, Type::welcome);
  if (!reply) return std::unexpected(reply.error());
  backed_ = reply->welcome.backed != 0;
  held_max_ = reply->welcome.held_max;
  return {};
}

Status Client::keep(std::string_view name, sys::BorrowedFd fd) {
  return keep_together(std::array{Keep{name, fd, Kind::kept}});
}

Status Client::watch(std::string_view prefix, sys::BorrowedFd pidfd) {
  return keep_together(std::array{Keep{prefix, pidfd, Kind::watch}});
}

Status Client::keep_together(std::span<const Keep> set) {
  if (set.empty()) return {};
  if (set.size() > kBatchMax) return fail("keeper: too many descriptors at once", EINVAL);
  std::array<Item, kBatchMax> items;
  std::array<int, kBatchMax> fds{};
  for (std::size_t i = 0; i < set.size(); ++i) {
    items[i] = Item{set[i].kind, set[i].name};
    fds[i] = set[i].fd.get();
    if (const Status ok = check_item(items[i]); !ok) return ok;
  }
  return request(Type::keep, std::span(items).first(set.size()), std::span(fds).first(set.size()));
}

Status Client::drop(std::string_view name) {
  const Item item{Kind::kept, name};
  if (const Status ok = check_item(item); !ok) return ok;
  return request(Type::drop, {&item, 1}, {});
}

Status Client::drop_prefix(std::string_view prefix) {
  if (const Status ok = check_item(Item{Kind::watch, prefix}); !ok) return ok;
  const Item item{Kind::kept, prefix};
  return request(Type::drop_prefix, {&item, 1}, {});
}

Result<std::vector<Kept>> Client::take_all() {
  std::vector<Kept> all;
  Item last{};
  // Bounded: every chunk but the last has at least one entry, and the keeper holds at most
  // kHeldMax.
  for (std::size_t round = 0; round <= kHeldMax; ++round) {
    std::vector<sys::Fd> fds;
    const std::size_t length = write_list(out_, Type::take, ++sequence_, {&last, 1});
    const auto chunk = exchange(length, {}, &fds, Type::chunk);
    if (!chunk) return std::unexpected(chunk.error());
    for (std::size_t i = 0; i < chunk->count; ++i) {
      all.push_back({chunk->items[i].kind, std::string(chunk->items[i].name), std::move(fds[i])});
    }
    if (!chunk->more) return all;
    if (chunk->count == 0) break;
    last = Item{all.back().kind, all.back().name};
  }
  return broken("keeper: take_all does not end", EPROTO);
}

bool Client::alive() const noexcept {
  if (!socket_) return false;
  pollfd p{socket_.get(), POLLIN | POLLRDHUP, 0};
  return ::poll(&p, 1, 0) == 0;
}

Status Client::request(Type type, std::span<const Item> items, std::span<const int> fds) {
  const auto reply = exchange(write_list(out_, type, ++sequence_, items), fds, nullptr, Type::ack);
  return reply ? Status{} : std::unexpected(reply.error());
}

Result<Parsed> Client::exchange(std::size_t length, std::span<const int> fds,
                                std::vector<sys::Fd>* received, Type wanted) {
  if (!socket_) return fail("keeper: not connected", ENOTCONN);
  const std::uint64_t until_ns =
      monotonic_ns() + static_cast<std::uint64_t>(answer_within_.count()) * 1'000'000u;
  // One request is under way at a time. So a socket without room for it means that the keeper is
  // stuck.
  if (const auto sent = sys::send(socket_, std::span(out_).first(length), fds, MSG_DONTWAIT);
      !sent) {
    // EBADF is the caller's descriptor, not the connection.
    if (sent.error().code == EBADF) return fail("keeper: bad descriptor", EBADF);
    return broken("keeper: send", sent.error().code);
  }
  TEST_POINT("keeper.handover");
  if (const Status ok = wait_readable(until_ns); !ok) return std::unexpected(ok.error());
  auto message = sys::receive(socket_, in_, MSG_DONTWAIT);
  if (!message) return broken("keeper: receive", message.error().code);
  if (message->outcome != sys::Received::message) {
    return broken("keeper: it closed the connection", EPIPE);
  }
  if (message->truncated) return broken("keeper: descriptors were lost: raise LimitNOFILE", EMFILE);
  const auto reply = parse(std::span(in_).first(message->size), message->fd_count);
  if (!reply || reply->sequence != sequence_) {
    return broken(reply ? "keeper: answer out of sequence" : reply.error(), EPROTO);
  }
  if (reply->type == Type::ack && reply->code != 0) {
    return fail("keeper: " + std::string(reply->text), reply->code);
  }
  if (reply->type != wanted) return broken("keeper: unexpected answer", EPROTO);
  for (std::size_t i = 0; received != nullptr && i < message->fd_count; ++i) {
    received->push_back(std::move(message->fds[i]));
  }
  return *reply;
}

Status Client::wait_readable(std::uint64_t until_ns) {
  for (;;) {
    const std::uint64_t now = monotonic_ns();
    if (now >= until_ns) return broken("keeper: no answer", ETIMEDOUT);
    pollfd p{socket_.get(), POLLIN, 0};
    const int n = ::poll(&p, 1, static_cast<int>((until_ns - now) / 1'000'000 + 1));
    if (n > 0) return {};
    if (n < 0 && errno != EINTR) return broken("keeper: poll", errno);
  }
}

std::unexpected<Error> Client::broken(std::string_view what, int code) {
  socket_.reset();
  return fail(what, code);
}

}  // namespace ramfold::keeper
