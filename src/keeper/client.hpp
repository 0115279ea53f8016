// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's side of the keeper: everything that must outlive the daemon is handed over here, and
// nothing may be punched before the call that hands it over has returned success.
//
// Threads: one at a time; the owner orders the calls.
// Invariants: a call that returned success was acknowledged by the keeper. After an error of the
// connection (deadline, death of the keeper) `alive()` is false and every call fails with ENOTCONN:
// connect again and keep everything again, which is idempotent.
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

// What the keeper holds: a descriptor under its name, or the pidfd watched for a prefix.
struct Kept {
  Kind kind = Kind::kept;
  std::string name;
  sys::Fd fd;
};

// What to keep, in one acknowledged step with others.
struct Keep {
  std::string_view name;
  sys::BorrowedFd fd;
  Kind kind = Kind::kept;
};

class Client {
 public:
  // The keeper answers at once, or within two seconds when systemd does not take what it is given.
  static constexpr std::chrono::milliseconds kAnswerWithin{10'000};

  // EBUSY: another daemon is connected. EACCES: the socket belongs to neither this user nor root.
  // `replaces`: a daemon of which nothing runs any more, whose connection is to be closed; 0: none.
  static Result<Client> connect(const std::string& path,
                                std::chrono::milliseconds answer_within = kAnswerWithin,
                                pid_t replaces = 0);

  // Names are [a-z0-9._-]{1,64}. Returns when the keeper holds its own duplicate. The same name
  // with the same file is fine; EEXIST: the name is another file's, or the open file is kept under
  // another name; ENOSPC: the keeper is full.
  Status keep(std::string_view name, sys::BorrowedFd fd);
  // All or nothing, at most kBatchMax; watches may be among them.
  Status keep_together(std::span<const Keep> set);
  // When the process of `pidfd` ends, everything under `prefix` (a name that ends in '.') is
  // dropped, this watch included. ESRCH: it has ended, and the prefix was dropped now. Keep first,
  // then watch, or both together: a watch that has fired does not see what is kept later.
  Status watch(std::string_view prefix, sys::BorrowedFd pidfd);

  // Everything the keeper holds, in duplicates; it goes on holding it.
  Result<std::vector<Kept>> take_all();

  // Names that are not there are fine. The keeper closes what it dropped soon after it has
  // answered.
  Status drop(std::string_view name);
  Status drop_prefix(std::string_view prefix);

  bool alive() const noexcept;
  // Becomes readable (POLLIN or POLLHUP) when the keeper has died; nothing else ever arrives
  // between calls. -1 after an error.
  sys::BorrowedFd socket() const noexcept { return socket_; }
  // systemd's descriptor store holds it all a second time.
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
