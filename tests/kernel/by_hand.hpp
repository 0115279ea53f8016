// SPDX-License-Identifier: GPL-2.0-or-later
// The agents' protocol, spoken by hand: messages with descriptors, for processes that are VMs of a
// test and have no agent.
// Threads: one for each connection.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "agent/wire.h"
#include "patience.hpp"

namespace ramfold::test {

// A connection to the daemon; negative: there is none, errno says why.
inline int connect_by_hand(const char* path) {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (fd >= 0 && ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return fd;
  }
  if (fd >= 0) ::close(fd);
  return -1;
}

template <typename Message>
bool send_by_hand(int connection, std::uint16_t type, std::uint32_t generation, Message message,
                  std::span<const int> fds = {}, int flags = 0) {
  message.h = {RF_MAGIC, type, 0, sizeof message, generation};
  constexpr std::size_t kFdsMax = 253;  // the kernel's
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kFdsMax)> control{};
  iovec part{&message, sizeof message};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  return ::sendmsg(connection, &header, MSG_NOSIGNAL | flags) >= 0;
}

struct HeardByHand {
  bool in_time = false;
  std::uint16_t type = 0;  // 0: the connection has ended
  std::uint32_t generation = 0;
  int fd = -1;
  std::array<char, RF_MESSAGE_MAX> bytes{};
};

// Waits `ms`, and longer on a machine that is busy.
inline HeardByHand receive_by_hand(int connection, int ms) {
  HeardByHand heard;
  pollfd p{connection, POLLIN, 0};
  heard.in_time = ::poll(&p, 1, patient(ms)) == 1;
  if (!heard.in_time) return heard;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec part{heard.bytes.data(), heard.bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  if (::recvmsg(connection, &header, MSG_CMSG_CLOEXEC) <= 0) return heard;
  rf_header h{};
  std::memcpy(&h, heard.bytes.data(), sizeof h);
  heard.type = h.type;
  heard.generation = h.generation;
  if (const cmsghdr* c = CMSG_FIRSTHDR(&header)) std::memcpy(&heard.fd, CMSG_DATA(c), sizeof(int));
  return heard;
}

}  // namespace ramfold::test
