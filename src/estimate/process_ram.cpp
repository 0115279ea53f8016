// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/process_ram.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

namespace ramfold::estimate {

using sys::kEntryExclusive;
using sys::kEntryPresent;
using sys::kEntrySwapped;
using sys::RemoteMemory;

Result<std::unique_ptr<ProcessRam>> ProcessRam::open(pid_t pid, std::vector<RamRange> ranges) {
  auto memory = RemoteMemory::open(pid);
  if (!memory) {
    return fail(fmt::format("read the memory of process {}: run as root, or as QEMU's user", pid),
                memory.error().code);
  }
  std::unique_ptr<ProcessRam> ram(new ProcessRam(std::move(*memory), std::move(ranges)));
  if (auto counted = ram->count(); !counted) return std::unexpected(counted.error());
  return ram;
}

ProcessRam::ProcessRam(RemoteMemory memory, std::vector<RamRange> ranges)
    : memory_(std::move(memory)), ranges_(std::move(ranges)), copies_(kBatch) {
  for (const RamRange& range : ranges_) size_.value += range.size.value / kPageSize;
}

// Calls each(Part) for all ranges, in parts of at most `most` pages, until it returns an error or
// false.
template <typename Each>
Status ProcessRam::each_part(std::size_t most, Each&& each) {
  PageIndex first{0};
  for (const RamRange& range : ranges_) {
    const std::uint64_t pages = range.size.value / kPageSize;
    for (std::uint64_t done = 0; done < pages; done += most) {
      const Part part{HostVirt{range.begin.value + done * kPageSize}, first + PageCount{done},
                      std::min<std::uint64_t>(most, pages - done), range.shared};
      const Result<bool> goes_on = each(part);
      if (!goes_on) return std::unexpected(goes_on.error());
      if (!*goes_on) return {};
    }
    first = first + PageCount{pages};
  }
  return {};
}

Status ProcessRam::count() {
  // Larger parts than for reading: a terabyte that is mostly empty must not take a million calls.
  constexpr std::size_t kCountBatch = 32'768;
  std::vector<std::uint64_t> entries(kCountBatch);
  return each_part(kCountBatch, [&](const Part& part) -> Result<bool> {
    const auto got = memory_.entries(part.at, std::span(entries).first(part.count));
    if (!got) return std::unexpected(got.error());
    present_.value += static_cast<std::uint64_t>(
        std::count_if(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(*got),
                      [](std::uint64_t entry) { return (entry & kEntryPresent) != 0; }));
    return true;
  });
}

Status ProcessRam::each(const PageVisitor& visit) {
  left_out_ = {};
  return each_part(kBatch, [&](const Part& part) { return visit_part(part, visit); });
}

Result<bool> ProcessRam::visit_part(const Part& part, const PageVisitor& visit) {
  std::array<std::uint64_t, kBatch> entries;
  const auto got = memory_.entries(part.at, std::span(entries).first(part.count));
  if (!got) return std::unexpected(got.error());
  std::array<HostVirt, kBatch> at;
  std::array<std::size_t, kBatch> which;
  std::size_t count = 0;
  for (std::size_t i = 0; i < *got; ++i) {
    if ((entries[i] & kEntrySwapped) != 0) ++left_out_.swapped.value;
    if ((entries[i] & kEntryPresent) == 0) continue;
    at[count] = HostVirt{part.at.value + i * kPageSize};
    which[count++] = i;
  }
  for (std::size_t done = 0; done < count;) {
    const auto read = memory_.read(std::span(at).subspan(done, count - done),
                                   std::span(copies_).first(count - done));
    if (!read) return std::unexpected(read.error());
    for (std::size_t i = 0; i < *read; ++i) {
      const PageCopy& page = copies_[i];
      const std::size_t place = which[done + i];
      if (!part.shared && (entries[place] & kEntryExclusive) == 0) {
        // The guest read this page, but never wrote it: it is the kernel's page of zeros, and takes
        // no memory.
        if (is_zero(page)) continue;
        ++left_out_.merged.value;
      }
      if (!visit(part.first + PageCount{place}, page)) return false;
    }
    done += *read;
    if (done == count) break;
    ++left_out_.moved.value;
    ++done;
  }
  return true;
}

bool ProcessRam::read(PageIndex page, PageCopy& into) {
  std::uint64_t before = 0;
  for (const RamRange& range : ranges_) {
    const std::uint64_t pages = range.size.value / kPageSize;
    if (page.value < before + pages) {
      const HostVirt at{range.begin.value + (page.value - before) * kPageSize};
      std::uint64_t entry = 0;
      const auto got = memory_.entries(at, {&entry, 1});
      if (!got || *got == 0 || (entry & kEntryPresent) == 0) return false;
      const auto read = memory_.read({&at, 1}, {&into, 1});
      return read && *read == 1;
    }
    before += pages;
  }
  return false;
}

}  // namespace ramfold::estimate
