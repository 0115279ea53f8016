// SPDX-License-Identifier: GPL-2.0-or-later
// Sends commands over one connection with an agent, and matches the answers by their token.
// Implements guest::AgentPort. There is a fixed number of places. A command occupies a place from
// send() until its answer was taken, or arrived after give_up().
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
  // Call it when the agent has answered the fence of this connection. `socket` is used until
  // close() and not owned: with a duplicate the agent would not see the end of the connection.
  void open(sys::BorrowedFd socket, std::uint32_t generation);
  // Call it before the socket is closed. Commands under way end as `lost`. The channel cannot be
  // opened again.
  void close() noexcept;
  // Ignores an answer with an unknown token.
  void answered(const rf_answer& answer) noexcept;

  bool is_open() override;
  using guest::AgentPort::send;
  std::expected<guest::AgentToken, guest::NotSent> send(
      guest::AgentAct act, std::span<const PageRun> runs,
      std::span<const ByteCount> in_pool) override;
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
      REQUIRES(mutex_);  // null: no command has this token

  Mutex mutex_{"CommandChannel"};
  CondVar changed_;
  Phase phase_ GUARDED_BY(mutex_) = Phase::fencing;
  int socket_ GUARDED_BY(mutex_) = -1;
  std::uint32_t generation_ GUARDED_BY(mutex_) = 0;
  std::uint32_t last_token_ GUARDED_BY(mutex_) = 0;
  std::array<Place, kUnderWayMax> places_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::daemon
