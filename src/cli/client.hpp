// SPDX-License-Identifier: GPL-2.0-or-later
// The command's end of the control socket: blocking, one request at a time.
// Threads: one.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "cli/exit_code.hpp"
#include "control/protocol.hpp"
#include "sys/fd.hpp"

namespace ramfold::cli {

inline constexpr const char* kControlSocketDefault = "/run/ramfold/control.sock";

// Why there is no answer.
struct ClientError {
  enum class Kind { not_running, not_allowed, broken } kind = Kind::broken;
  control::OperationError error;  // as told to the operator
};
template <typename T>
using Asked = std::expected<T, ClientError>;
// The status of a command that ends with this error.
ExitCode exit_of(const ClientError& error) noexcept;
// The answer is none to the question.
control::OperationError another_kind();

class Client {
 public:
  static Asked<Client> connect(const std::string& path);

  // Sends `request` and reads its answer up to the last line, which is returned; the lines before
  // it go to `part`. `patience` bounds the wait for each line; zero waits as long as it takes.
  Asked<control::Reply> ask(const control::Request& request, std::chrono::milliseconds patience,
                            const std::function<void(const control::Reply&)>& part);

 private:
  explicit Client(sys::Fd fd) noexcept : fd_(std::move(fd)) {}
  Asked<std::string> read_line(std::chrono::milliseconds patience);

  sys::Fd fd_;
  std::string buffer_;
};

}  // namespace ramfold::cli
