// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/session.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "base/check.hpp"
#include "control/protocol.hpp"

namespace ramfold::control {

namespace asio = boost::asio;
using boost::system::error_code;

Session::Session(Socket socket, Caller caller, SessionLimits limits, OnLine on_line,
                 OnClosed on_closed)
    : socket_(std::move(socket)),
      deadline_(socket_.get_executor()),
      caller_(caller),
      limits_(limits),
      on_line_(std::move(on_line)),
      on_closed_(std::move(on_closed)) {}

void Session::close() {
  error_code ignored;
  socket_.close(ignored);
  deadline_.cancel();
  // Called once. It may drop the last reference from outside; the caller's `self` keeps this alive.
  if (auto told = std::exchange(on_closed_, nullptr)) told(shared_from_this());
}

void Session::arm(std::chrono::milliseconds limit) {
  deadline_.expires_after(limit);
  deadline_.async_wait([self = shared_from_this(), armed = ++armed_](const error_code& error) {
    if (!error && armed == self->armed_) self->close();
  });
}

// A thread that did not run for long finds the end of its wait and the deadline at once. The
// handler of the deadline can then not be cancelled any more.
void Session::disarm() {
  ++armed_;
  deadline_.cancel();
}

void Session::read() {
  arm(limits_.idle);
  asio::async_read_until(
      socket_, asio::dynamic_buffer(input_, kRequestBytesMax + 1), '\n',
      [self = shared_from_this()](const error_code& error, std::size_t) { self->on_read(error); });
}

void Session::on_read(const error_code& error) {
  if (error == asio::error::not_found) {  // the buffer is full and holds no newline
    disarm();
    on_line_(shared_from_this(), std::exchange(input_, {}));
    return;
  }
  if (error) return close();
  disarm();
  const std::size_t end = input_.find('\n');
  ENSURE(end != std::string::npos);
  std::string line = input_.substr(0, end);
  input_.erase(0, end + 1);
  answered_ = false;
  on_line_(shared_from_this(), std::move(line));
}

void Session::part(std::string line) {
  if (!socket_.is_open()) return;
  output_.push_back(std::move(line));
  if (output_.size() == 1) write();
}

void Session::progress(std::string line) {
  if (!socket_.is_open() || answered_) return;
  if (output_.empty()) {
    part(std::move(line));
  } else {
    progress_ = std::move(line);
  }
}

void Session::answer(std::string line, Then then) {
  answered_ = true;
  progress_.clear();
  then_ = then;
  part(std::move(line));
}

void Session::write() {
  arm(limits_.write);
  asio::async_write(socket_, asio::buffer(output_.front()),
                    [self = shared_from_this()](const error_code& error, std::size_t) {
                      if (error) return self->close();
                      self->output_.pop_front();
                      if (self->output_.empty() && !self->progress_.empty()) {
                        self->output_.push_back(std::exchange(self->progress_, {}));
                      }
                      if (!self->output_.empty()) return self->write();
                      self->disarm();
                      if (!self->answered_) return;  // the operation goes on
                      if (self->then_ == Then::close) return self->close();
                      self->read();
                    });
}

}  // namespace ramfold::control
