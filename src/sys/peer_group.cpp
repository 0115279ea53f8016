// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/peer_group.hpp"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

namespace ramfold::sys {
namespace {

constexpr std::size_t kGroupsUsual = 64;
constexpr std::size_t kGroupsMax = 65536;  // NGROUPS_MAX

bool in_group(BorrowedFd connection, gid_t primary, gid_t wanted) {
  if (primary == wanted) return true;
  std::vector<gid_t> groups(kGroupsUsual);
  for (;;) {
    auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) == 0) {
      groups.resize(size / sizeof(gid_t));
      break;
    }
    if (errno != ERANGE || groups.size() >= kGroupsMax) return false;
    groups.resize(kGroupsMax);
  }
  return std::find(groups.begin(), groups.end(), wanted) != groups.end();
}

}  // namespace

std::optional<gid_t> group_id(const std::string& name) {
  group entry{};
  group* found = nullptr;
  std::vector<char> buffer(65536);  // getgrnam_r(3): a group with very many members needs it
  if (::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0) return {};
  if (found == nullptr) return {};
  return entry.gr_gid;
}

Result<SocketGroup> give_to_group(const std::string& path, const std::string& shown,
                                  const std::string& group,
                                  const std::function<void(std::string_view)>& log) {
  SocketGroup given{group, group_id(group)};
  if (!given.id) {
    log("there is no group '" + group + "': root alone may use " + shown +
        "; run `groupadd --system " + group + "` and start the daemon anew");
  } else if (::chown(path.c_str(), static_cast<uid_t>(-1), *given.id) != 0) {
    log("cannot give " + shown + " to the group '" + group + "': " + std::strerror(errno) +
        "; root alone may use it");
    given.id.reset();
  }
  if (::chmod(path.c_str(), given.id ? 0660 : 0600) != 0) return fail_errno("chmod " + path);
  return given;
}

bool may_use(BorrowedFd connection, const Peer& peer, const SocketGroup& group) {
  return peer.uid == 0 || peer.uid == ::geteuid() ||
         (group.id && in_group(connection, peer.gid, *group.id));
}

}  // namespace ramfold::sys
