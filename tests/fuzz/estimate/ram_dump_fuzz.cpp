// SPDX-License-Identifier: GPL-2.0-or-later
// Any bytes as the head of a RAM dump: what is taken for RAM lies within the file, is made of whole
// pages, is bounded in number, and no byte of it is named twice.
//
// Input: a byte of flags (repair the ELF header as 64 or 32 bits, so that random bytes get further;
// repair the segments too), two bytes of the file's size in 64-byte units, then the head.
#include <elf.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/check.hpp"
#include "estimate/dump_segments.hpp"

using namespace ramfold;
using namespace ramfold::estimate;

namespace {

constexpr std::uint8_t kRepair = 1, kAs32 = 2, kRepairSegments = 4;
constexpr std::size_t kFlags = 3;

template <typename Header, typename Segment>
void repair(std::span<std::byte> head, unsigned char elf_class, bool segments) {
  Header header;
  if (head.size() < sizeof header) return;
  std::memcpy(&header, head.data(), sizeof header);
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_type = ET_CORE;
  if (segments) {
    header.e_phoff = sizeof header;
    header.e_phnum %= 4;
    for (std::size_t i = 0; i < header.e_phnum; ++i) {
      Segment segment;
      const std::size_t at = sizeof header + i * sizeof segment;
      if (at + sizeof segment > head.size()) break;
      std::memcpy(&segment, head.data() + at, sizeof segment);
      segment.p_type = PT_LOAD;
      segment.p_offset %= 1u << 14;
      segment.p_filesz %= 1u << 15;
      std::memcpy(head.data() + at, &segment, sizeof segment);
    }
  }
  std::memcpy(head.data(), &header, sizeof header);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < kFlags) return 0;
  // Exactly its size on the heap, so that AddressSanitizer sees a byte too many.
  const std::size_t length = size - kFlags;
  const std::unique_ptr<std::byte[]> copy(new std::byte[length]);
  std::memcpy(copy.get(), data + kFlags, length);
  const std::span<std::byte> head(copy.get(), length);
  const bool segments = (data[0] & kRepairSegments) != 0;
  if ((data[0] & kRepair) != 0) {
    if ((data[0] & kAs32) != 0) {
      repair<Elf32_Ehdr, Elf32_Phdr>(head, ELFCLASS32, segments);
    } else {
      repair<Elf64_Ehdr, Elf64_Phdr>(head, ELFCLASS64, segments);
    }
  }
  const std::uint64_t said = std::uint64_t{64} * (data[1] + 256u * data[2]);
  const ByteCount file_size{std::max<std::uint64_t>(said, length)};
  // Behind the head the file is zeros.
  const ReadAt read = [&](std::uint64_t offset, std::span<std::byte> into) {
    if (offset > file_size.value || file_size.value - offset < into.size()) return false;
    std::ranges::fill(into, std::byte{0});
    if (offset < head.size()) {
      std::memcpy(into.data(), head.data() + offset, std::min(into.size(), head.size() - offset));
    }
    return true;
  };
  const auto found = segments_of(read, file_size);
  if (!found) {
    ENSURE(!found.error().what.empty());
    return 0;
  }
  ENSURE(!found->empty() && found->size() <= kSegmentsMax);
  std::uint64_t end = 0;
  for (const DumpSegment& segment : *found) {
    ENSURE(segment.offset >= end);
    end = segment.offset + bytes(segment.pages).value;
    ENSURE(segment.pages.value != 0);
    ENSURE(segment.offset <= file_size.value);
    ENSURE(bytes(segment.pages).value <= file_size.value - segment.offset);
  }
  return 0;
}
