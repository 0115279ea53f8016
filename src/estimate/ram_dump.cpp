// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/ram_dump.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>

#include "estimate/known_file.hpp"

namespace ramfold::estimate {
namespace {

constexpr std::size_t kBatch = 256;  // pages of one read

Result<std::vector<DumpSegment>> recognised(int fd, ByteCount size) {
  std::vector<std::byte> head(std::min<std::uint64_t>(kHeadMax, size.value));
  const ssize_t n = ::pread(fd, head.data(), head.size(), 0);
  if (n < 0) return fail_errno("read it");
  head.resize(static_cast<std::size_t>(n));
  if (!head.empty()) {
    const auto known = known_as(head);
    if (!known) return std::unexpected(known.error());
    if (*known && size.value >= kPageSize) return fail(**known);
    if (*known) return fail("a file with no whole page of RAM in it: " + **known);
  }
  const ReadAt read_at = [fd](std::uint64_t offset, std::span<std::byte> into) {
    if (offset > std::uint64_t{INT64_MAX}) return false;
    return ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset)) ==
           static_cast<ssize_t>(into.size());
  };
  return segments_of(read_at, size);
}
}  // namespace

Result<std::unique_ptr<RamDump>> RamDump::open(const std::string& path, TakenAs taken) {
  sys::Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts{};
  if (!file || ::fstat(file.get(), &facts) != 0) return fail_errno(path);
  if (!S_ISREG(facts.st_mode)) {
    return fail(path + ": not a regular file; name a running QEMU by its pid");
  }
  const ByteCount size{static_cast<std::uint64_t>(facts.st_size)};
  std::vector<DumpSegment> segments{{0, PageCount{size.value / kPageSize}}};
  if (taken == TakenAs::what_it_is) {
    auto found = recognised(file.get(), size);
    if (!found) return fail(path + ": " + found.error().text());
    segments = std::move(*found);
  }
  if (segments.front().pages.value == 0) {
    return fail(path + ": a file with no whole page of RAM in it");
  }
  std::unique_ptr<RamDump> dump(new RamDump(std::move(file), path, std::move(segments)));
  if (auto counted = dump->count(); !counted) return std::unexpected(counted.error());
  return dump;
}

RamDump::RamDump(sys::Fd file, std::string path, std::vector<DumpSegment> segments)
    : file_(std::move(file)), path_(std::move(path)), segments_(std::move(segments)) {
  first_pages_.reserve(segments_.size());
  for (const DumpSegment& segment : segments_) {
    first_pages_.push_back(size_.value);
    size_.value += segment.pages.value;
  }
}

// On a file system without holes, all pages count as present.
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
      // The pages that contain the data: it need not begin or end at the edge of a page.
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
  if (page.value >= size_.value) return false;
  const auto after = std::ranges::upper_bound(first_pages_, page.value);
  const auto number = static_cast<std::size_t>(after - first_pages_.begin()) - 1;
  const std::uint64_t at =
      segments_[number].offset + (page.value - first_pages_[number]) * kPageSize;
  return ::pread(file_.get(), into.bytes.data(), kPageSize, static_cast<off_t>(at)) ==
         static_cast<ssize_t>(kPageSize);
}

}  // namespace ramfold::estimate
