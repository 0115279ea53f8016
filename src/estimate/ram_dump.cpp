// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/ram_dump.hpp"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace ramfold::estimate {
namespace {

constexpr std::size_t kBatch = 256;  // pages of one read
// A dump has a segment for each block of guest memory: tens.
constexpr std::size_t kSegmentsMax = 4096;
constexpr std::string_view kPlainRemedy =
    "dump it without compression: QMP dump-guest-memory without \"format\", or virsh dump "
    "--memory-only";

bool begins_with(std::span<const std::byte> head, std::string_view magic) {
  return head.size() >= magic.size() && std::memcmp(head.data(), magic.data(), magic.size()) == 0;
}

// A struct at an offset of the head; nothing when it is not all there.
template <typename T>
bool load(std::span<const std::byte> head, std::uint64_t offset, T& into) {
  if (offset > head.size() || head.size() - offset < sizeof(T)) return false;
  std::memcpy(&into, head.data() + offset, sizeof(T));
  return true;
}

template <typename Header, typename Segment, typename Section>
Result<std::vector<DumpSegment>> elf_segments(std::span<const std::byte> head, ByteCount size) {
  Header header;
  if (!load(head, 0, header)) return fail("an ELF file that ends in its header: dump it again");
  if (header.e_type != ET_CORE) {
    return fail("an ELF file, but not a dump: name the file that dump-guest-memory wrote");
  }
  std::uint64_t count = header.e_phnum;
  if (Section first; count == PN_XNUM && load(head, header.e_shoff, first)) count = first.sh_info;
  if (count > kSegmentsMax) return fail("a dump with too many segments to be a guest's RAM");
  std::vector<DumpSegment> segments;
  for (std::uint64_t i = 0; i < count; ++i) {
    Segment segment;
    if (!load(head, header.e_phoff + i * sizeof segment, segment)) {
      return fail("a dump whose segments cannot be found: dump it again");
    }
    if (segment.p_type != PT_LOAD || segment.p_offset >= size.value) continue;
    const std::uint64_t bytes =
        std::min<std::uint64_t>(segment.p_filesz, size.value - segment.p_offset);
    if (bytes < segment.p_filesz) {
      return fail("a dump that was cut short: dump it again, with enough space");
    }
    if (bytes >= kPageSize) segments.push_back({segment.p_offset, PageCount{bytes / kPageSize}});
  }
  return segments;
}

}  // namespace

Result<std::vector<DumpSegment>> segments_of(std::span<const std::byte> head, ByteCount file_size) {
  if (begins_with(head, "KDUMP   ") || begins_with(head, "makedumpfile")) {
    return fail(fmt::format("a compressed dump: {}", kPlainRemedy));
  }
  if (begins_with(head, "QEVM") || begins_with(head, "LibvirtQemudSave")) {
    return fail(fmt::format("a saved VM, not a dump of its RAM: {}", kPlainRemedy));
  }
  std::vector<DumpSegment> segments{{0, PageCount{file_size.value / kPageSize}}};
  if (begins_with(head, ELFMAG) && head.size() > EI_DATA) {
    if (head[EI_DATA] != std::byte{ELFDATA2LSB}) {
      return fail("a dump of a big-endian machine: ramfold folds x86 guests");
    }
    auto found = head[EI_CLASS] == std::byte{ELFCLASS32}
                     ? elf_segments<Elf32_Ehdr, Elf32_Phdr, Elf32_Shdr>(head, file_size)
                     : elf_segments<Elf64_Ehdr, Elf64_Phdr, Elf64_Shdr>(head, file_size);
    if (!found) return found;
    segments = std::move(*found);
  }
  if (segments.empty() || segments.front().pages.value == 0) {
    return fail("a file with no whole page of RAM in it");
  }
  return segments;
}

Result<std::unique_ptr<RamDump>> RamDump::open(const std::string& path) {
  sys::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts{};
  if (!file || ::fstat(file.get(), &facts) != 0) return fail_errno(path);
  if (!S_ISREG(facts.st_mode)) {
    return fail(path + ": not a regular file; name a running QEMU by its pid");
  }
  std::vector<std::byte> head(
      std::min<std::size_t>(kHeadMax, static_cast<std::size_t>(facts.st_size)));
  const ssize_t n = ::pread(file.get(), head.data(), head.size(), 0);
  if (n < 0) return fail_errno("read " + path);
  head.resize(static_cast<std::size_t>(n));
  auto segments = segments_of(head, ByteCount{static_cast<std::uint64_t>(facts.st_size)});
  if (!segments) return fail(path + ": " + segments.error().what);
  std::unique_ptr<RamDump> dump(new RamDump(std::move(file), path, std::move(*segments)));
  if (auto counted = dump->count(); !counted) return std::unexpected(counted.error());
  return dump;
}

RamDump::RamDump(sys::Fd file, std::string path, std::vector<DumpSegment> segments)
    : file_(std::move(file)), path_(std::move(path)), segments_(std::move(segments)) {
  for (const DumpSegment& segment : segments_) size_.value += segment.pages.value;
}

// A file system without holes says that all is data.
Status RamDump::count() {
  return each_extent([&](PageIndex, std::uint64_t, std::uint64_t pages) {
    present_.value += pages;
    return true;
  });
}

template <typename Each>
Status RamDump::each_extent(Each&& each) const {
  PageIndex first{0};
  for (const DumpSegment& segment : segments_) {
    const std::uint64_t begin = segment.offset;
    const std::uint64_t end = begin + bytes(segment.pages).value;
    for (std::uint64_t at = begin; at < end;) {
      const off_t data = ::lseek(file_.get(), static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;  // only a hole is left
      if (data < 0) return fail_errno("read " + path_);
      // Pages of the segment that have data: where it starts and ends need not be a page's edge.
      const std::uint64_t from =
          (std::max(at, static_cast<std::uint64_t>(data)) - begin) / kPageSize;
      if (begin + from * kPageSize >= end) break;
      const off_t hole = ::lseek(file_.get(), data, SEEK_HOLE);
      if (hole < 0) return fail_errno("read " + path_);
      const std::uint64_t to =
          (std::min(end, static_cast<std::uint64_t>(hole)) - begin + kPageSize - 1) / kPageSize;
      if (!each(first + PageCount{from}, begin + from * kPageSize, to - from)) return {};
      at = begin + to * kPageSize;
    }
    first = first + segment.pages;
  }
  return {};
}

Status RamDump::each(const PageVisitor& visit) {
  std::vector<PageCopy> copies(kBatch);
  Status status;
  const Status walked =
      each_extent([&](PageIndex first, std::uint64_t offset, std::uint64_t pages) {
        for (std::uint64_t done = 0; done < pages;) {
          const std::uint64_t count = std::min<std::uint64_t>(kBatch, pages - done);
          const ssize_t n = ::pread(file_.get(), copies.data(), count * kPageSize,
                                    static_cast<off_t>(offset + done * kPageSize));
          if (n < static_cast<ssize_t>(kPageSize)) {
            status = n < 0 ? Status(fail_errno("read " + path_))
                           : Status(fail(path_ + ": it has become shorter: dump it again"));
            return false;
          }
          const std::uint64_t got = static_cast<std::uint64_t>(n) / kPageSize;
          for (std::uint64_t i = 0; i < got; ++i) {
            if (!visit(first + PageCount{done + i}, copies[i])) return false;
          }
          done += got;
        }
        return true;
      });
  return status ? walked : status;
}

bool RamDump::read(PageIndex page, PageCopy& into) {
  std::uint64_t before = 0;
  for (const DumpSegment& segment : segments_) {
    if (page.value < before + segment.pages.value) {
      const std::uint64_t at = segment.offset + (page.value - before) * kPageSize;
      return ::pread(file_.get(), into.bytes.data(), kPageSize, static_cast<off_t>(at)) ==
             static_cast<ssize_t>(kPageSize);
    }
    before += segment.pages.value;
  }
  return false;
}

}  // namespace ramfold::estimate
