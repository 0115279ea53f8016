// SPDX-License-Identifier: GPL-2.0-or-later
// The keeper's loop: connections, requests, watched processes, signals.
//
// Threads: one; what it drops is closed by a second (closer.hpp).
// Invariants: a request is answered after it took effect, and has none when the message is
// malformed. One connection at a time is the daemon's (it has said hello); others are refused with
// EBUSY. Nothing a peer does, or leaves undone, makes the loop sleep or ends it; it ends only when
// it was asked to and holds nothing.
#pragma once

#include <poll.h>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "keeper/closer.hpp"
#include "keeper/protocol.hpp"
#include "keeper/systemd_store.hpp"
#include "keeper/table.hpp"
#include "sys/fd.hpp"

namespace ramfold::keeper {

// Connections that have not said hello yet and the daemon's own; more wait in the listen queue.
inline constexpr std::size_t kConnectionsMax = 8;
inline constexpr std::uint64_t kHelloWithin_ns = 2'000'000'000;  // local and waiting for nothing
inline constexpr std::uint64_t kAcceptRest_ns = 200'000'000;     // without descriptors left
inline constexpr std::uint64_t kPollRest_ns = 100'000'000;       // where poll(2) fails
inline constexpr int kRetryEvery_ms = 100;                       // what systemd did not take

class Server {
 public:
  // `signals`: a signalfd.
  Server(Table table, SystemdStore store, Closer closer, sys::Fd listener, sys::Fd signals);

  // Takes what an earlier keeper had stored; before run().
  void restore(Passed passed);
  // Returns when a signal asked for it and nothing is held: at once, or after it refused.
  enum class Ended { when_asked, later };
  Ended run();

 private:
  struct Connection {
    sys::Fd socket;
    pid_t pid = -1;
    std::uint64_t hello_until_ns = 0;
    bool daemon = false;  // has said hello
  };
  enum class After : bool { stay, close };

  bool may_end() const noexcept;
  std::size_t holding() const noexcept { return table_.size() + foreign_; }
  int wait_ms() const noexcept;
  void collect_polled();
  void serve_polled();
  void read_signals();
  void accept_one();
  void close_late() noexcept;
  void close(Connection& connection, std::string_view why);
  void serve(Connection& connection);
  After handle(Connection& connection, const Parsed& request, std::span<sys::Fd> fds);
  After greet(Connection& connection, const Parsed& request);
  After keep(Connection& connection, const Parsed& request, std::span<sys::Fd> fds);
  After drop(Connection& connection, const Parsed& request);
  After take(Connection& connection, const Parsed& request);
  After acknowledge(Connection& connection, const Parsed& request, int code, std::size_t count,
                    std::string_view text);
  After reply(Connection& connection, std::size_t length, std::span<const int> fds);
  void let_go(Entry& entry);
  std::size_t drop_prefix(std::string_view prefix);
  void drop_ended();
  void back_up();
  void tell_status();

  Table table_;
  SystemdStore store_;
  Closer closer_;
  sys::Fd listener_;
  sys::Fd signals_;
  std::array<Connection, kConnectionsMax> connections_;
  Buffer in_{};
  Buffer out_{};
  std::vector<pollfd> polled_;  // signals, listener, connections, watches
  std::size_t foreign_ = 0;     // descriptors passed at the start that this version does not know
  std::uint64_t accepts_again_ns_ = 0;  // until then nobody is accepted
  bool cannot_accept_said_ = false;
  bool stop_asked_ = false;
  bool stop_refused_ = false;
  bool replace_asked_ = false;  // end for a new one to be started, when systemd holds everything
  bool unbacked_ = false;       // an entry waits to be stored with systemd
  bool store_behind_ = false;   // said so in the log
};

}  // namespace ramfold::keeper
