// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/client.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <thread>

namespace ramfold::cli {
namespace {

using control::Failure;
using control::OperationError;

std::unexpected<ClientError> broken(std::string text, std::string remedy) {
  return std::unexpected(
      ClientError{ClientError::Kind::broken,
                  OperationError{Failure::failed, std::move(text), std::move(remedy), {}}});
}

std::unexpected<ClientError> cannot_connect(const std::string& path, int error) {
  ClientError failure;
  failure.error.text = fmt::format("cannot reach the daemon at {}: {}", path, std::strerror(error));
  if (error == ENOENT || error == ECONNREFUSED) {
    failure.kind = ClientError::Kind::not_running;
    failure.error.text = fmt::format("the daemon is not running (nobody listens at {})", path);
    failure.error.remedy =
        "systemctl start ramfold; or name its socket with --socket when runtime_dir differs";
  } else if (error == EACCES || error == EPERM) {
    failure.kind = ClientError::Kind::not_allowed;
    failure.error.remedy =
        "use sudo, or join the socket's group (usermod -aG ramfold YOU) and log in again";
  }
  return std::unexpected(std::move(failure));
}

// A full backlog answers EAGAIN at once.
constexpr int kConnectTries = 20;
constexpr std::chrono::milliseconds kConnectPause{50};

}  // namespace

ExitCode exit_of(const ClientError& error) noexcept {
  return error.kind == ClientError::Kind::not_running ? ExitCode::not_running : ExitCode::failed;
}

OperationError another_kind() {
  return {Failure::failed, "the daemon gave an answer of another kind", "", {}};
}

Asked<Client> Client::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return cannot_connect(path, ENAMETOOLONG);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  sys::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return cannot_connect(path, errno);
  for (int tried = 1;; ++tried) {
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      return Client(std::move(fd));
    }
    if ((errno != EAGAIN && errno != EINTR) || tried == kConnectTries) {
      return cannot_connect(path, errno);
    }
    std::this_thread::sleep_for(kConnectPause);
  }
}

Asked<std::string> Client::read_line(std::chrono::milliseconds patience) {
  const int timeout = patience.count() == 0 ? -1 : static_cast<int>(patience.count());
  std::size_t searched = 0;
  while (true) {
    const auto end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    searched = buffer_.size();
    if (searched > control::kReplyBytesMax) {
      return broken("the daemon's answer is too long", "is it ramfoldd at that socket?");
    }
    pollfd wait{fd_.get(), POLLIN, 0};
    const int ready = ::poll(&wait, 1, timeout);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      return broken("the daemon does not answer",
                    "see its log (journalctl -u ramfold); guests are served independently of this");
    }
    std::array<char, 65536> part{};
    const ssize_t n = ::read(fd_.get(), part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return broken("the daemon closed the connection",
                    "it was stopped or turned this user away: see its log (journalctl -u ramfold)");
    }
    buffer_.append(part.data(), static_cast<std::size_t>(n));
  }
}

Asked<control::Reply> Client::ask(const control::Request& request,
                                  std::chrono::milliseconds patience,
                                  const std::function<void(const control::Reply&)>& part) {
  const std::string line = control::encode(request);
  // The request fits into the socket's buffer. An error means that the daemon has closed the
  // connection; it may have said why before, so read on.
  [[maybe_unused]] const auto sent = ::send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL);
  while (true) {
    const auto answer = read_line(patience);
    if (!answer) return std::unexpected(answer.error());
    auto reply = control::parse_reply(*answer);
    if (!reply) return broken(reply.error().text(), "");
    if (reply->last) return std::move(*reply);
    if (part) part(*reply);
  }
}

}  // namespace ramfold::cli
