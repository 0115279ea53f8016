// SPDX-License-Identifier: GPL-2.0-or-later
// The commands of one connection with an agent: sends them, and matches the answers by their token.
// The daemon's guest::AgentPort. A fixed number of places: a command has one from send() until its
// answer was taken, or came and nobody wants it.
// Threads: any; open(), close() and answered() under Agents::mutex_ or on the agents' thread. Its
// own lock comes after Agents::mutex_, and no other is taken under it.
#pragma once

#include <array>

#include "base/thread_annotations.hpp"
#include "guest/agent_port.hpp"
#include "sys/fd.hpp"

namespace ramfold::daemon {

class CommandChannel final : public guest::AgentPort {
 public:
  // The agent of this session has answered the fence. `socket` is used until close(), and not
  // owned: a duplicate would keep the agent from seeing the connection's end.
  void open(sys::BorrowedFd socket, std::uint32_t generation);
  // Before the socket is closed. What is under way is lost; it cannot be opened again.
  void close() noexcept;
  // One that nobody waits for is ignored.
  void answered(const rf_answer& answer) noexcept;

  std::expected<guest::AgentToken, guest::NotSent> send(guest::AgentAct act,
                                                        std::span<const PageRun> runs) override;
  std::optional<guest::AgentAnswer> take(guest::AgentToken token,
                                         std::chrono::milliseconds wait) override;
  void give_up(guest::AgentToken token) override;

 private:
  enum class State : std::uint8_t { free, under_way, unwanted, answered };
  struct Place {
    State state = State::free;
    std::uint32_t token = 0;
    guest::AgentAnswer answer = guest::AgentAnswer::lost;
  };
  enum class Phase : std::uint8_t { fencing, open, closed };
  Place* place_of(std::uint32_t token) noexcept
      REQUIRES(mutex_);  // null: no command that has a place

  Mutex mutex_{"CommandChannel"};
  CondVar changed_;
  Phase phase_ GUARDED_BY(mutex_) = Phase::fencing;
  int socket_ GUARDED_BY(mutex_) = -1;
  std::uint32_t generation_ GUARDED_BY(mutex_) = 0;
  std::uint32_t last_token_ GUARDED_BY(mutex_) = 0;
  std::array<Place, kUnderWayMax> places_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
