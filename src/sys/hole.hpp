// SPDX-License-Identifier: GPL-2.0-or-later
// Fills one hole of a file of tmpfs and leaves the holes beside it.
// Threads: any.
#pragma once

#include <cstddef>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys {

// Writes a page of the file, which may be a hole. A write(2) would not do: the settings of the host
// choose the size of its folio, and a large one makes zeros of the holes beside it (D7). A mapping
// that excludes large folios is asked first. ENOMEM and ENOSPC: there is no memory. No error is a
// signal, whatever another process does to the file.
Status fill_hole(BorrowedFd file, ByteCount offset, const std::byte* page) noexcept;

}  // namespace ramfold::sys
