// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's connection to the keeper. The daemon hands over every descriptor that must outlive
// it. It punches nothing of a VM before the calls that hand over that VM's descriptors have
// returned success.
//
// Threads: one at a time; the owner orders the calls.
// Invariants: a call that returned success was acknowledged by the keeper. After an error of the
// connection (deadline, death of the keeper) `alive()` is false and every call fails with ENOTCONN.
// Then connect again and keep everything again; to keep a descriptor twice does no harm.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "keeper/protocol.hpp"
#include "sys/fd.hpp"

namespace ramfold::keeper {

// An entry that the keeper holds: a descriptor under its name, or the pidfd that it watches for a
// prefix.
struct Kept {
  Kind kind = Kind::kept;
  std::string name;
  sys::Fd fd;
};

// An entry for the keeper to hold. Several are kept in one acknowledged step.
struct Keep {
  std::string_view name;
  sys::BorrowedFd fd;
  Kind kind = Kind::kept;
};

class Client {
 public:
  // The keeper answers at once, or within two seconds while systemd does not read its messages.
  static constexpr std::chrono::milliseconds kAnswerWithin{10'000};

  // EBUSY: another daemon is connected. EACCES: the socket belongs to neither this user nor root.
  // `replaces`: the pid of a daemon of which no thread runs any more; the keeper closes its
  // connection. 0: none.
  static Result<Client> connect(const std::string& path,
                                std::chrono::milliseconds answer_within = kAnswerWithin,
                                pid_t replaces = 0);

  // Names are [a-z0-9._-]{1,64}. Returns when the keeper holds its own duplicate. To keep the same
  // file under the same name again succeeds. EEXIST: the name is that of another file, or the open
  // file is kept under another name. ENOSPC: the keeper is full.
  Status keep(std::string_view name, sys::BorrowedFd fd);
  // Keeps all of `set`, or nothing. At most kBatchMax entries, watches included.
  Status keep_together(std::span<const Keep> set);
  // When the process of `pidfd` ends, the keeper drops every entry under `prefix` (a name that ends
  // in '.'), this watch included. ESRCH: the process has ended already, and the prefix was dropped
  // now. Keep first, then watch, or both together: a watch that has fired does not drop entries
  // that are kept later.
  Status watch(std::string_view prefix, sys::BorrowedFd pidfd);

  // Duplicates of all descriptors that the keeper holds. The keeper goes on holding them.
  Result<std::vector<Kept>> take_all();

  // Succeed also when there is no such name. The keeper closes the dropped descriptors soon after
  // it has answered.
  Status drop(std::string_view name);
  Status drop_prefix(std::string_view prefix);

  bool alive() const noexcept;
  // Becomes readable (POLLIN or POLLHUP) when the keeper has died: between calls the keeper sends
  // nothing. -1 after an error.
  sys::BorrowedFd socket() const noexcept { return socket_; }
  // systemd's descriptor store holds a second duplicate of everything.
  bool backed() const noexcept { return backed_; }
  std::size_t held_max() const noexcept { return held_max_; }

 private:
  Client(sys::Fd socket, std::chrono::milliseconds answer_within) noexcept
      : socket_(std::move(socket)), answer_within_(answer_within) {}

  // Sends the `length` bytes of out_ and reads the reply with its sequence number into in_.
  Result<Parsed> exchange(std::size_t length, std::span<const int> fds,
                          std::vector<sys::Fd>* received, Type wanted);
  Status request(Type type, std::span<const Item> items, std::span<const int> fds);
  Status greet(pid_t replaces);
  Status wait_readable(std::uint64_t until_ns);
  std::unexpected<Error> broken(std::string_view what, int code);

  sys::Fd socket_;
  std::chrono::milliseconds answer_within_;
  std::uint32_t sequence_ = 0;
  bool backed_ = false;
  std::size_t held_max_ = 0;
  Buffer out_{};
  Buffer in_{};
};

}  // namespace ramfold::keeper
