// SPDX-License-Identifier: GPL-2.0-or-later
// Small files that outlast a crash of the process and of the host: a file is replaced as a whole or
// stays as it was.
// Threads: any. The caller prevents that two threads replace the same file at the same time.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace ramfold::sys {

// The bytes of a file; nothing where there is no such file. EFBIG: longer than `bytes_max`.
Result<std::optional<std::string>> read_small_file(const std::string& path, std::size_t bytes_max);

// Writes a temporary file, syncs it, renames it to `name` and syncs the directory. On success the
// new bytes are on the disk. After an error the file holds the old bytes or the new ones, never a
// part of either. A directory that is missing is made (0700), its parent is not; the file is 0600.
Status replace_file(const std::string& directory, const std::string& name, std::string_view bytes);

}  // namespace ramfold::sys
