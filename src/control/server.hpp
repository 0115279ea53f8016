// SPDX-License-Identifier: GPL-2.0-or-later
// The control socket: docs/control-protocol.md. Accepts many clients. What a client may send, what
// is queued for it and how long it may take are bounded; a client that does not read is dropped.
// Threads: start and destroy on one thread; it runs one thread for the sockets, one for snapshots
// and kOperationsMax for operations. The destructor closes every connection and waits for calls
// into the Service to return.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "control/service.hpp"

namespace ramfold::control {

struct ServerOptions {
  std::string socket_path;  // Config::control_socket()
  std::string group;        // Config::control_group; its members may connect
  // One line without newline; called from any of the server's threads.
  std::function<void(std::string_view)> log;
  // A client that sends no whole request, or does not take its answer, for this long is dropped.
  std::chrono::milliseconds client_idle{60'000};
  std::chrono::milliseconds client_write{10'000};
};

class Server {
 public:
  // Binds and serves at once. `service` outlives the server. Where `group` does not exist on the
  // host, the socket is for root alone (0600) and a line says so.
  static Result<std::unique_ptr<Server>> start(ServerOptions options, Service& service);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ramfold::control
