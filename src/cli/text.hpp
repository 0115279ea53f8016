// SPDX-License-Identifier: GPL-2.0-or-later
// Text for people: figures with units, lines that fit, colour.
// Threads: pure functions and values.
#pragma once

#include <locale.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/printable.hpp"
#include "base/types.hpp"

namespace ramfold::cli {

// "0 B", "1023 B", "4.0 KiB", "1.5 GiB": three digits that matter.
std::string human(ByteCount bytes);
std::string human_signed(std::int64_t bytes);
std::string human_count(std::uint64_t count);     // "1,234,567"
std::string human_duration_ns(std::uint64_t ns);  // "850 ns", "14.0 us", "3.2 ms", "1.5 s"
std::string human_duration_s(double seconds);     // "12 s", "5 min", "3 h 20 min", "2 d 4 h"
std::string human_share(double share);            // "0.12 %"

// While it lives this thread's C library reads and prints UTF-8, whatever the environment says.
class Utf8 {
 public:
  Utf8() noexcept;
  ~Utf8();
  Utf8(const Utf8&) = delete;
  Utf8& operator=(const Utf8&) = delete;

 private:
  locale_t utf8_;
  locale_t before_;
};

// Columns of a terminal that a text takes: wide characters two, escape sequences of colours none.
std::size_t width_of(std::string_view text);
// `text` broken between words into lines of at most `width` columns, the first of which begins at
// column `at`; `indent` blanks stand before the others. A word that is too long stays whole. Width
// 0: no line is broken.
std::string wrap(std::string_view text, std::size_t width, std::size_t at, std::size_t indent);

enum class Colour : std::uint8_t { none, red, green, yellow, bold, dim };
std::string_view code_of(Colour colour);  // an escape sequence; empty: none

// How text is laid out: with colours or not, in so many columns.
class Style {
 public:
  // `width` 0: nothing is cut or wrapped.
  explicit Style(bool coloured, std::size_t width = 0) noexcept
      : coloured_(coloured), width_(width) {}
  std::string paint(Colour colour, std::string_view text) const;
  bool coloured() const noexcept { return coloured_; }
  std::size_t width() const noexcept { return width_; }

 private:
  bool coloured_;
  std::size_t width_;
};

}  // namespace ramfold::cli
