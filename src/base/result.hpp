// SPDX-License-Identifier: GPL-2.0-or-later
// Errors of operation. An expected outcome is an enum of its own, not an Error. An Error names the
// operation that failed, the errno, and the remedy where there is one. It is logged once, by the
// caller that decides what to do about it.
#pragma once

#include <cerrno>
#include <cstring>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace ramfold {

struct [[nodiscard]] Error {
  std::string what;  // operation and remedy, e.g. "open /dev/userfaultfd"
  int code = 0;      // errno, 0 when the error is not the kernel's

  std::string text() const { return code == 0 ? what : what + ": " + std::strerror(code); }
};

template <typename T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

inline std::unexpected<Error> fail(std::string_view what, int code = 0) {
  return std::unexpected(Error{std::string(what), code});
}
// The error of a system call that just failed.
inline std::unexpected<Error> fail_errno(std::string_view what) { return fail(what, errno); }

}  // namespace ramfold
