// SPDX-License-Identifier: GPL-2.0-or-later
// The agents' listening socket. Accepts members of the configured group whose process runs. If
// descriptors or memory are short, accepts nobody for a moment.
// Threads: one, the agents'.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "daemon/agents/attach.hpp"
#include "daemon/agents/complaints.hpp"
#include "sys/peer_group.hpp"
#include "sys/receptionist.hpp"
#include "sys/subordinate_ids.hpp"

namespace ramfold::daemon {

class Door {
 public:
  struct Socket {
    sys::Fd listener;
    sys::SocketGroup group;  // the group that may connect: WELCOME passes /dev/userfaultfd
  };
  // Agents may connect when this returns.
  static Result<Socket> listen(const std::string& path, const std::string& group);

  struct Visitor {
    sys::Fd socket;
    AgentPeer peer;
  };
  // Called with each accepted connection.
  using Receive = std::function<void(Visitor visitor)>;

  // REQUIRES: all outlive this.
  Door(Socket socket, sys::BorrowedFd epoll, const sys::Procfs& procfs, sys::SubordinateIds& ids,
       sys::Receptionist& receptionist, Complaints& complaints) noexcept
      : socket_(std::move(socket)),
        epoll_(epoll),
        procfs_(procfs),
        ids_(ids),
        receptionist_(receptionist),
        complaints_(complaints) {}

  // Adds the listener to the epoll set, with a null pointer as its data.
  Status open();
  // Accepts waiting connections, a bounded number per call.
  void accept(const Receive& receive);
  // Call it regularly: ends the pause after a shortage.
  void tend(std::uint64_t now_ns);
  // Closes for good, and closes connections that were not accepted.
  void close() noexcept;

 private:
  void admit(sys::Fd socket, const Receive& receive);
  bool may_connect(const sys::Fd& socket, const sys::Peer& peer, uid_t account);
  void rest(int code);

  Socket socket_;
  const sys::BorrowedFd epoll_;
  const sys::Procfs& procfs_;
  sys::SubordinateIds& ids_;
  sys::Receptionist& receptionist_;
  Complaints& complaints_;
  std::uint64_t accepts_again_ns_ = 0;  // 0: the listener is in the epoll set
  bool cannot_accept_said_ = false;
};

}  // namespace ramfold::daemon
