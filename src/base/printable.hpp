// SPDX-License-Identifier: GPL-2.0-or-later
// Makes names from outside (of VMs, processes, files) safe to print on terminals and in logs.
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ramfold {

// Returns `text` with a '?' in place of each character that could deceive a terminal or a reader:
// C0 and C1 controls (escape sequences, new lines), marks and overrides of the writing direction,
// line and paragraph separators, and invisible characters (tags, a byte order mark, a zero-width
// space). Each byte that is not part of valid UTF-8 becomes a '?', too: overlong forms, surrogates
// and numbers above U+10FFFF are not valid. printable(printable(x)) == printable(x).
std::string printable(std::string_view text);

// The longest beginning of `text` that has at most `bytes_max` bytes and cuts no character of
// UTF-8 in two.
std::string_view cut_text(std::string_view text, std::size_t bytes_max) noexcept;

}  // namespace ramfold
