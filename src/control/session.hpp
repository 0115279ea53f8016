// SPDX-License-Identifier: GPL-2.0-or-later
// One client of the control socket: reads a line, waits for its answer to be written, reads the
// next. So a client has one request under way and at most one answer and one progress line queued;
// a client that does not read in time is closed.
// Threads: everything on the io_context's one thread. Other threads post to it.
// Ownership: pending operations of asio, and the work on its request, keep it alive.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "control/listener.hpp"

namespace ramfold::control {

struct SessionLimits {
  std::chrono::milliseconds idle;   // without a whole request, so that idle clients shut nobody out
  std::chrono::milliseconds write;  // until the client has taken a line
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  using Socket = boost::asio::local::stream_protocol::socket;
  // Gets a line without its newline, or more than kRequestBytesMax bytes that hold none. It answers
  // once, later.
  using OnLine = std::function<void(const std::shared_ptr<Session>&, std::string)>;
  using OnClosed = std::function<void(const std::shared_ptr<Session>&)>;

  Session(Socket socket, Caller caller, SessionLimits limits, OnLine on_line, OnClosed on_closed);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void start() { read(); }
  void close();
  const Caller& caller() const noexcept { return caller_; }

  // Sends a part of an answer that no other part replaces: a plan.
  void part(std::string line);
  // Sends a line that replaces the one before, if the client has not taken that yet.
  void progress(std::string line);
  enum class Then : bool { read_on, close };
  void answer(std::string line, Then then = Then::read_on);

 private:
  void read();
  void on_read(const boost::system::error_code& error);
  void write();
  void arm(std::chrono::milliseconds limit);
  void disarm();

  Socket socket_;
  boost::asio::steady_timer deadline_;
  std::uint64_t armed_ = 0;  // changes with each arm() and disarm()
  const Caller caller_;
  const SessionLimits limits_;
  const OnLine on_line_;
  OnClosed on_closed_;
  std::string input_;
  std::deque<std::string> output_;  // the front is being written
  std::string progress_;            // waits for output_ to drain
  bool answered_ = false;
  Then then_ = Then::read_on;
};

}  // namespace ramfold::control
