// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/dump_segments.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace ramfold::estimate {
namespace {

constexpr std::size_t kHeadersAtOnce = 1024;
// Enough for the notes of a process's first thread, which include NT_AUXV and NT_FILE.
constexpr std::uint64_t kNotesMax = 64u << 10;
constexpr std::uint64_t kNoteFile = 0x46494c45;  // NT_FILE

template <typename T>
bool load(const ReadAt& read, std::uint64_t offset, T& into) {
  return read(offset, std::as_writable_bytes(std::span(&into, 1)));
}

// Only a core file of a process has these notes: the auxiliary vector and the mapped files.
bool is_of_process(const ReadAt& read, std::uint64_t offset, std::uint64_t bytes) {
  std::vector<std::byte> notes(std::min(bytes, kNotesMax));
  if (!read(offset, notes)) return false;
  Elf64_Nhdr note;  // Elf32_Nhdr is the same
  for (std::uint64_t at = 0; at + sizeof note <= notes.size();) {
    std::memcpy(&note, notes.data() + at, sizeof note);
    if (note.n_type == NT_AUXV || note.n_type == kNoteFile) return true;
    const auto padded = [](std::uint64_t length) { return (length + 3) / 4 * 4; };
    at += sizeof note + padded(note.n_namesz) + padded(note.n_descsz);
  }
  return false;
}

struct Bytes {
  std::uint64_t begin;
  std::uint64_t end;
};

// Makes segments of whole pages that do not overlap. Where a range overlaps an earlier one, only
// its own pages behind the overlap are taken, also when its pages begin elsewhere in the file than
// those of the earlier range.
std::vector<DumpSegment> apart(std::vector<Bytes> ranges) {
  std::ranges::sort(ranges, {}, &Bytes::begin);
  std::vector<DumpSegment> segments;
  std::uint64_t end = 0;  // of the last segment
  for (Bytes range : ranges) {
    if (!segments.empty() && range.begin <= end) {
      const std::uint64_t known = (end - range.begin + kPageSize - 1) / kPageSize;
      range.begin += known * kPageSize;
    }
    if (range.end < range.begin || range.end - range.begin < kPageSize) continue;
    const PageCount pages{(range.end - range.begin) / kPageSize};
    if (!segments.empty() && range.begin == end) {
      segments.back().pages.value += pages.value;
    } else {
      segments.push_back({range.begin, pages});
    }
    end = range.begin + bytes(pages).value;
  }
  return segments;
}

template <typename Header, typename Segment, typename Section>
Result<std::vector<DumpSegment>> elf_segments(const ReadAt& read, ByteCount size) {
  Header header;
  if (!load(read, 0, header)) return fail("an ELF file that ends in its header: dump it again");
  if (header.e_type != ET_CORE) {
    return fail("an ELF file, but not a dump: name the file that dump-guest-memory wrote");
  }
  std::uint64_t count = header.e_phnum;
  if (Section first; count == PN_XNUM && load(read, header.e_shoff, first)) count = first.sh_info;
  if (count > kSegmentsMax) return fail("a dump with too many segments to be a guest's RAM");
  std::vector<Bytes> ranges;
  std::vector<Segment> headers;
  for (std::uint64_t done = 0; done < count; done += headers.size()) {
    headers.resize(std::min<std::uint64_t>(kHeadersAtOnce, count - done));
    const std::uint64_t at = header.e_phoff + done * sizeof(Segment);
    if (at < header.e_phoff || !read(at, std::as_writable_bytes(std::span(headers)))) {
      return fail("a dump whose segments cannot be found: dump it again");
    }
    for (const Segment& segment : headers) {
      if (segment.p_type == PT_NOTE && is_of_process(read, segment.p_offset, segment.p_filesz)) {
        return fail(
            "a core file of a process, not of a guest: name the file that dump-guest-memory wrote");
      }
      if (segment.p_type != PT_LOAD || segment.p_filesz == 0) continue;
      if (segment.p_offset > size.value || segment.p_filesz > size.value - segment.p_offset) {
        return fail("a dump that was cut short: dump it again, with enough space");
      }
      ranges.push_back({segment.p_offset, std::uint64_t{segment.p_offset} + segment.p_filesz});
    }
  }
  return apart(std::move(ranges));
}

}  // namespace

Result<std::vector<DumpSegment>> segments_of(const ReadAt& read, ByteCount file_size) {
  std::vector<DumpSegment> segments{{0, PageCount{file_size.value / kPageSize}}};
  unsigned char ident[EI_NIDENT];
  if (load(read, 0, ident) && std::memcmp(ident, ELFMAG, SELFMAG) == 0) {
    if (ident[EI_DATA] != ELFDATA2LSB) {
      return fail("a dump of a big-endian machine: ramfold folds x86 guests");
    }
    auto found = ident[EI_CLASS] == ELFCLASS32
                     ? elf_segments<Elf32_Ehdr, Elf32_Phdr, Elf32_Shdr>(read, file_size)
                     : elf_segments<Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr>(read, file_size);
    if (!found) return found;
    segments = std::move(*found);
  }
  if (segments.empty() || segments.front().pages.value == 0) {
    return fail("a file with no whole page of RAM in it");
  }
  return segments;
}

}  // namespace ramfold::estimate
