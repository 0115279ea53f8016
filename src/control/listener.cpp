// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/listener.hpp"

#include <fmt/core.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "sys/message.hpp"

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

namespace ramfold::control {
namespace {

constexpr int kBacklog = 64;

std::optional<gid_t> group_id(const std::string& name) {
  group entry{};
  group* found = nullptr;
  std::vector<char> buffer(65536);  // getgrnam_r(3): a group with very many members needs it
  if (::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0) return {};
  if (found == nullptr) return {};
  return entry.gr_gid;
}

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

bool in_group(sys::BorrowedFd connection, gid_t primary, gid_t wanted) {
  if (primary == wanted) return true;
  std::vector<gid_t> groups(65536);  // NGROUPS_MAX
  socklen_t size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) != 0) {
    return false;
  }
  groups.resize(size / sizeof(gid_t));
  return std::find(groups.begin(), groups.end(), wanted) != groups.end();
}

}  // namespace

Result<Listener> listen_control(const std::string& path, const std::string& group,
                                const std::function<void(std::string_view)>& log) {
  Listener listener;
  listener.group = group_id(group);
  // Nobody can connect before listen(2), and the name appears only after it: no moment with a wrong
  // owner or mode, and no moment without a socket for a client that asks during a restart.
  const std::string fresh = path + ".new";
  auto fd = bind_at(fresh);
  if (!fd) return std::unexpected(fd.error());
  listener.fd = std::move(*fd);
  mode_t mode = 0600;
  if (listener.group) {
    if (::chown(fresh.c_str(), static_cast<uid_t>(-1), *listener.group) == 0) {
      mode = 0660;
    } else {
      log(fmt::format("cannot give {} to group {}: {}; root alone may use it", path, group,
                      std::strerror(errno)));
      listener.group.reset();
    }
  } else {
    log(
        fmt::format("there is no group '{}'; root alone may use {} (groupadd --system {} "
                    "and a restart let its members)",
                    group, path, group));
  }
  if (::chmod(fresh.c_str(), mode) != 0) return fail_errno("chmod " + fresh);
  if (::listen(listener.fd.get(), kBacklog) != 0) return fail_errno("listen " + fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return fail_errno("rename " + fresh);
  return listener;
}

Result<Caller> admit(sys::BorrowedFd connection, std::optional<gid_t> group) {
  const auto peer = sys::peer_of(connection);
  if (!peer) return std::unexpected(peer.error());
  const bool allowed = peer->uid == 0 || peer->uid == ::geteuid() ||
                       (group && in_group(connection, peer->gid, *group));
  if (!allowed) {
    return fail(fmt::format("uid {} (pid {}) may not use the control socket", peer->uid, peer->pid),
                EACCES);
  }
  return Caller{peer->pid, peer->uid};
}

}  // namespace ramfold::control
