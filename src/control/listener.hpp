// SPDX-License-Identifier: GPL-2.0-or-later
// The control socket: makes its file, and checks each process that connects.
// Threads: free functions.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "sys/fd.hpp"
#include "sys/peer_group.hpp"

namespace ramfold::control {

struct Listener {
  sys::Fd fd;              // listening, non-blocking
  sys::SocketGroup group;  // whose members may connect
};

// Makes a stream socket at `path`, 0660 root:<group>, or 0600 where the group does not exist (`log`
// says so). The file appears at its path with its final owner and mode, replacing a stale one.
Result<Listener> listen_control(const std::string& path, const std::string& group,
                                const std::function<void(std::string_view)>& log);

// The process that connected. EACCES: it may not use the socket. The file's mode keeps it out too,
// but somebody may have changed the mode.
struct Caller {
  pid_t pid = -1;
  uid_t uid = static_cast<uid_t>(-1);
};
Result<Caller> admit(sys::BorrowedFd connection, const sys::SocketGroup& group);

}  // namespace ramfold::control
