// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets for the members of one group: the group's number, the socket's owner, and whether who
// connected is a member. Threads: free functions.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "sys/message.hpp"

namespace ramfold::sys {

// Absent: there is no group of that name.
std::optional<gid_t> group_id(const std::string& name);

// Who may use a socket besides root and this process's own user.
struct SocketGroup {
  std::string name;
  std::optional<gid_t> id;  // absent: nobody
};

// Gives the file `path` of a socket to `group`, mode 0660. REQUIRES: nobody else can connect yet.
// Where there is no such group, or it cannot be given, the mode is 0600, and `log` is told why and
// what to do; `shown` is the socket's name in that line. Returns who may use the socket.
Result<SocketGroup> give_to_group(const std::string& path, const std::string& shown,
                                  const std::string& group,
                                  const std::function<void(std::string_view)>& log);

// By the ids that the kernel recorded at connect(2): root, this process's own user, and who has the
// group as its own or among its supplementary groups. The mode of the socket's file says the same;
// this holds also when somebody has changed that.
bool may_use(BorrowedFd connection, const Peer& peer, const SocketGroup& group);

}  // namespace ramfold::sys
