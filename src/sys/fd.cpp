// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/fd.hpp"

#include <fcntl.h>

namespace ramfold::sys {

Result<Fd> Fd::duplicate() const {
  const int fd = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (fd < 0) return fail_errno("duplicate a descriptor");
  return Fd(fd);
}

}  // namespace ramfold::sys
