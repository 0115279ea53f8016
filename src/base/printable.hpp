// SPDX-License-Identifier: GPL-2.0-or-later
// Names that others chose (a VM's, a process's, a file's), made fit for terminals and logs.
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ramfold {

// `text` with a '?' for each character that a terminal or a reader could take for something else:
// C0 and C1 controls (escape sequences, new lines), marks and overrides of the writing direction,
// line and paragraph separators, and characters that are never shown (tags, a byte order mark, a
// zero-width space). So is each byte that does not belong to valid UTF-8: overlong forms,
// surrogates and numbers above U+10FFFF are not valid. Printing a printable text changes nothing.
std::string printable(std::string_view text);

// The longest beginning of `text` that has at most `bytes_max` bytes and cuts no character of
// UTF-8 in two.
std::string_view cut_text(std::string_view text, std::size_t bytes_max) noexcept;

}  // namespace ramfold
