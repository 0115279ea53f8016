// SPDX-License-Identifier: GPL-2.0-or-later
// Sockets for the members of one group: looks up the group, gives it the socket's file, and tells
// whether a process that connected is a member. Threads: free functions.
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

// The group whose members may use a socket, besides root and this process's own user.
struct SocketGroup {
  std::string name;
  std::optional<gid_t> id;  // absent: nobody
};

// Gives the file `path` of a socket to `group`, mode 0660. REQUIRES: nobody else can connect yet.
// When the group does not exist, or chown(2) fails, the mode is 0600, and `log` gets a line that
// says why and what to do. `shown` is the socket's name in that line. Returns the group; its id is
// absent when the mode is 0600.
Result<SocketGroup> give_to_group(const std::string& path, const std::string& shown,
                                  const std::string& group,
                                  const std::function<void(std::string_view)>& log);

// True for root, for this process's own user, and for a process with the group as its primary or a
// supplementary one, by the ids that the kernel recorded at connect(2). The mode of the socket's
// file admits the same processes; this check holds also when somebody has changed the mode.
bool may_use(BorrowedFd connection, const Peer& peer, const SocketGroup& group);

}  // namespace ramfold::sys
