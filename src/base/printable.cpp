// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/printable.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

namespace ramfold {
namespace {

struct Range {
  char32_t first;
  char32_t last;
};

// Characters that printable() replaces, besides the control characters of ASCII.
constexpr std::array kUnprintable{
    Range{0x80, 0x9f},        // C1: some terminals take them for escape sequences
    Range{0x061c, 0x061c},    // Arabic letter mark
    Range{0x200b, 0x200b},    // zero-width space
    Range{0x200e, 0x200f},    // left-to-right and right-to-left mark
    Range{0x2028, 0x202e},    // line and paragraph separator, embeddings and overrides
    Range{0x2066, 0x2069},    // isolates
    Range{0xfeff, 0xfeff},    // byte order mark
    Range{0xfff9, 0xfffb},    // interlinear annotation
    Range{0xe0000, 0xe007f},  // tags
};

// The shape of a UTF-8 sequence by its first byte (Unicode, table 3-7).
struct Lead {
  unsigned char first, last;      // first bytes
  std::size_t size;               // of the sequence
  unsigned char second_from, to;  // second bytes; all others are 0x80 to 0xbf
};
constexpr std::array kLeads{
    Lead{0xc2, 0xdf, 2, 0x80, 0xbf}, Lead{0xe0, 0xe0, 3, 0xa0, 0xbf},
    Lead{0xe1, 0xec, 3, 0x80, 0xbf}, Lead{0xed, 0xed, 3, 0x80, 0x9f},
    Lead{0xee, 0xef, 3, 0x80, 0xbf}, Lead{0xf0, 0xf0, 4, 0x90, 0xbf},
    Lead{0xf1, 0xf3, 4, 0x80, 0xbf}, Lead{0xf4, 0xf4, 4, 0x80, 0x8f},
};

bool is_within(unsigned char byte, unsigned char from, unsigned char to) noexcept {
  return byte >= from && byte <= to;
}

// Bytes of the character that `text` begins with; 0 when it begins with none.
std::size_t character_size(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  const auto* const lead = std::ranges::find_if(
      kLeads, [&](const Lead& l) { return is_within(byte(0), l.first, l.last); });
  if (lead == kLeads.end() || text.size() < lead->size) return 0;
  if (!is_within(byte(1), lead->second_from, lead->to)) return 0;
  for (std::size_t i = 2; i < lead->size; ++i) {
    if (!is_within(byte(i), 0x80, 0xbf)) return 0;
  }
  return lead->size;
}

// REQUIRES: a valid sequence.
char32_t character_of(std::string_view sequence) noexcept {
  const auto lead = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return lead;
  char32_t character = lead & (0x7fu >> sequence.size());
  for (const char c : sequence.substr(1)) {
    character = character << 6 | (static_cast<unsigned char>(c) & 0x3fu);
  }
  return character;
}

bool is_shown(char32_t character) noexcept {
  if (character < 0x80) return character >= 0x20 && character != 0x7f;
  return std::ranges::none_of(kUnprintable, [&](const Range& range) {
    return character >= range.first && character <= range.last;
  });
}

}  // namespace

std::string printable(std::string_view text) {
  std::string clean;
  clean.reserve(text.size());
  while (!text.empty()) {
    const std::size_t size = character_size(text);
    const std::string_view sequence = text.substr(0, std::max<std::size_t>(1, size));
    if (size != 0 && is_shown(character_of(sequence))) {
      clean += sequence;
    } else {
      clean += '?';
    }
    text.remove_prefix(sequence.size());
  }
  return clean;
}

std::string_view cut_text(std::string_view text, std::size_t bytes_max) noexcept {
  if (text.size() <= bytes_max) return text;
  constexpr std::size_t kSequenceMax = 4;
  std::size_t end = bytes_max;
  while (end > 0 && bytes_max - end < kSequenceMax &&
         (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) {
    --end;
  }
  // Without a first byte before them, continuation bytes are no character that must stay whole.
  const bool within = (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80;
  return text.substr(0, within ? bytes_max : end);
}

}  // namespace ramfold
