// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/listener.hpp"

#include <fmt/core.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "sys/peer_group.hpp"

namespace ramfold::control {
namespace {

constexpr int kBacklog = 64;

Result<sys::Fd> bind_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail("control socket path '" + path + "': shorten runtime_dir", ENAMETOOLONG);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  sys::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("socket");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno("remove stale " + path);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno("bind " + path);
  }
  return fd;
}

}  // namespace

Result<Listener> listen_control(const std::string& path, const std::string& group,
                                const std::function<void(std::string_view)>& log) {
  Listener listener;
  // Nobody can connect before listen(2), and the name appears only after it. So the socket never
  // has a wrong owner or mode, and a client that connects during a restart finds one socket or the
  // other.
  const std::string fresh = path + ".new";
  auto fd = bind_at(fresh);
  if (!fd) return std::unexpected(fd.error());
  listener.fd = std::move(*fd);
  auto given = sys::give_to_group(fresh, path, group, log);
  if (!given) return std::unexpected(given.error());
  listener.group = std::move(*given);
  if (::listen(listener.fd.get(), kBacklog) != 0) return fail_errno("listen " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail_errno("rename " + fresh);
  return listener;
}

Result<Caller> admit(sys::BorrowedFd connection, const sys::SocketGroup& group) {
  const auto peer = sys::peer_of(connection);
  if (!peer) return std::unexpected(peer.error());
  if (!sys::may_use(connection, *peer, group)) {
    return fail(fmt::format("uid {} (pid {}) may not use the control socket", peer->uid, peer->pid),
                EACCES);
  }
  return Caller{peer->pid, peer->uid};
}

}  // namespace ramfold::control
