// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/printable.hpp"

#include <catch2/catch.hpp>

using ramfold::cut_text;
using ramfold::printable;

namespace {

std::string utf8(char32_t c) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3f)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | c >> 18), tail(12), tail(6), tail(0)};
}

}  // namespace

TEST_CASE("names in any script stay as they are") {
  for (const std::string name :
       {"web-01", "caf\xc3\xa9", "\xd0\xb1\xd0\xb0\xd0\xb7\xd0\xb0", "\xe6\x95\xb0\xe6\x8d\xae",
        "\xd7\xa9\xd7\xa8\xd7\xaa", "\xf0\x9f\x90\xa7", "a b", "~"}) {
    CHECK(printable(name) == name);
  }
  CHECK(printable("").empty());
}

TEST_CASE("controls of C0 and C1 become question marks") {
  CHECK(printable("a\x1b[2Jb\n\r\t\x7f") == "a?[2Jb????");
  CHECK(printable(std::string_view("a\0b", 3)) == "a?b");
  for (char32_t c = 0; c < 0xa0; ++c) {
    const bool control = c < 0x20 || c >= 0x7f;
    CHECK((printable(utf8(c)) == "?") == (control || c == '?'));
  }
  CHECK(printable(utf8(0xa0)) == utf8(0xa0));
}

TEST_CASE("marks and overrides of the writing direction become question marks") {
  for (const char32_t c :
       {0x61c, 0x200b, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202b, 0x202c, 0x202d, 0x202e,
        0x2066, 0x2067, 0x2068, 0x2069, 0xfeff, 0xfff9, 0xe0001, 0xe0041}) {
    INFO(static_cast<unsigned>(c));
    CHECK(printable("a" + utf8(c) + "b") == "a?b");
  }
  // Joiners belong to names in Indic scripts and Persian; so do their neighbours' letters.
  for (const char32_t c : {0x200c, 0x200d, 0x2010, 0x2027, 0x202f, 0x2065, 0x206a}) {
    CHECK(printable(utf8(c)) == utf8(c));
  }
}

TEST_CASE("bytes that are not UTF-8 become question marks, one each") {
  CHECK(printable("a\xff") == "a?");
  CHECK(printable("\xc3") == "?");
  CHECK(printable("\xc3(") == "?(");
  CHECK(printable("\x9b"
                  "31m") == "?31m");
  CHECK(printable("\xc0\x9b") == "??");            // overlong
  CHECK(printable("\xe0\x82\x9b") == "???");       // a C1 control, overlong
  CHECK(printable("\xed\xa0\x80") == "???");       // a surrogate
  CHECK(printable("\xf4\x90\x80\x80") == "????");  // above U+10FFFF
  CHECK(printable("\xe2\x80") == "??");            // cut off
  CHECK(printable("\xf0\x9f\x90") == "???");
}

TEST_CASE("printing twice changes nothing") {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    for (int next = 0; next < 256; next += 5) {
      all = {static_cast<char>(byte), static_cast<char>(next), static_cast<char>(byte)};
      const std::string once = printable(all);
      REQUIRE(printable(once) == once);
    }
  }
}

TEST_CASE("a text is cut between characters") {
  CHECK(cut_text("abc", 3) == "abc");
  CHECK(cut_text("abcd", 3) == "abc");
  CHECK(cut_text("ab\xc3\xa9", 3) == "ab");
  CHECK(cut_text("ab\xc3\xa9x", 4) == "ab\xc3\xa9");
  CHECK(cut_text("a\xf0\x9f\x90\xa7", 4) == "a");
  CHECK(cut_text("abc", 0).empty());
  // Not UTF-8: it is cut where it has to be.
  CHECK(cut_text("\x80\x80\x80\x80\x80\x80\x80\x80", 6).size() == 6);
}
