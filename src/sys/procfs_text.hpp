// SPDX-License-Identifier: GPL-2.0-or-later
// Reading and taking apart the text files of /proc and /sys. For procfs*.cpp only.
// Threads: values; one owner.
#pragma once

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "base/types.hpp"
#include "sys/fd.hpp"

namespace ramfold::sys::text {

// The whole of `word` as a number; nothing when anything else is in it, or it does not fit.
template <typename T>
std::optional<T> number(std::string_view word, int base = 10) noexcept {
  T value{};
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  if (error != std::errc{} || stop != word.data() + word.size() || word.empty()) {
    return std::nullopt;
  }
  return value;
}

constexpr bool is_blank(char c) noexcept { return c == ' ' || c == '\t' || c == '\n'; }

// Takes the next word off `rest`, blanks before it skipped; empty at the end.
constexpr std::string_view word(std::string_view& rest) noexcept {
  while (!rest.empty() && is_blank(rest.front())) rest.remove_prefix(1);
  std::size_t n = 0;
  while (n < rest.size() && !is_blank(rest[n])) ++n;
  const std::string_view found = rest.substr(0, n);
  rest.remove_prefix(n);
  return found;
}

// Takes what is before `mark` off `rest`, and the mark; everything when there is no mark.
constexpr std::string_view before(std::string_view& rest, char mark) noexcept {
  const std::size_t at = rest.find(mark);
  const std::string_view found = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return found;
}

// The rest of the line that begins with `key`, e.g. value_of(status, "VmLck:").
std::optional<std::string_view> value_of(std::string_view text, std::string_view key) noexcept;
// The same, as "123 kB".
ByteCount kilobytes_of(std::string_view text, std::string_view key) noexcept;
// The word in brackets of a sysfs choice: "always [never] deny" gives "never".
std::string_view chosen(std::string_view text) noexcept;

// What follows the command in a stat file, from field 3 on. The command is in parentheses and may
// hold any byte, parentheses too: it ends at the last one. Empty: there is none.
std::string_view after_command(std::string_view stat) noexcept;

// Reads a file of any length line by line, through a buffer of fixed size. A line that is longer
// than the buffer is cut short.
class LineReader {
 public:
  static Result<LineReader> open(const std::string& path);

  // The next line without its newline, valid until the next call; nothing at the end.
  Result<std::optional<std::string_view>> next();
  std::uint64_t bytes_read() const noexcept { return bytes_; }

 private:
  explicit LineReader(Fd fd) : fd_(std::move(fd)), buffer_(kBufferSize, '\0') {}
  Status fill();

  static constexpr std::size_t kBufferSize = 32 * 1024;  // a path is at most 4 x 4096 escaped
  Fd fd_;
  std::string buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::uint64_t bytes_ = 0;
  bool skipping_ = false;
  bool at_end_ = false;
};

// A file of at most `max` bytes; E2BIG when it is longer.
Result<std::string> read_file(const std::string& path, ByteCount max);

}  // namespace ramfold::sys::text
