// SPDX-License-Identifier: GPL-2.0-or-later
// The keeper's loop: connections, requests, watched processes, signals.
//
// Threads: one; a second thread closes the dropped descriptors (closer.hpp).
// Invariants: a request is answered after it took effect; a malformed message has no effect. One
// connection at a time is the daemon's: the one that has said hello. Others are refused with EBUSY.
// No peer can make the loop sleep or end. The loop ends when a signal asked for it and either
// nothing is held, or systemd holds everything for the next keeper.
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

// The daemon's connection and those that have not said hello yet. More wait in the listen queue.
inline constexpr std::size_t kConnectionsMax = 8;
inline constexpr std::uint64_t kHelloWithin_ns = 2'000'000'000;  // a local peer sends it at once
inline constexpr std::uint64_t kAcceptRest_ns = 200'000'000;     // after accept(2) got no resources
inline constexpr std::uint64_t kPollRest_ns = 100'000'000;       // after poll(2) failed
inline constexpr int kRetryEvery_ms = 100;                       // while systemd does not read

class Server {
 public:
  // `signals`: a signalfd.
  Server(Table table, SystemdStore store, Closer closer, sys::Fd listener, sys::Fd signals);

  // Enters the descriptors that an earlier keeper had stored with systemd. Call before run().
  void restore(Passed passed);
  // Returns when a signal asked for it (SIGTERM, SIGINT, SIGQUIT: once nothing is held; SIGHUP:
  // once systemd holds everything).
  //   when_asked  the keeper held nothing when it was asked to end
  //   later       the keeper refused at first, or is to be replaced
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
  std::vector<pollfd> polled_;          // signals, listener, connections, watches
  std::size_t foreign_ = 0;             // descriptors passed at the start that could not be entered
  std::uint64_t accepts_again_ns_ = 0;  // no connection is accepted before this time
  bool cannot_accept_said_ = false;
  bool stop_asked_ = false;
  bool stop_refused_ = false;
  bool replace_asked_ = false;  // end once systemd holds everything; systemd starts a new keeper
  bool unbacked_ = false;       // an entry waits to be stored with systemd
  bool store_behind_ = false;   // the log has told that `unbacked_`
};

}  // namespace ramfold::keeper
