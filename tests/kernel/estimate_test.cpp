// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the memory of a running process without making any page of it present.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <map>

#include "estimate/process_ram.hpp"
#include "sys/memory.hpp"
#include "sys/procfs.hpp"
#include "unit/estimate/pages.hpp"

using namespace ramfold;
using namespace ramfold::estimate;

namespace {

constexpr std::uint64_t kPages = 3000;  // not a whole number of batches

// A process with memory of its own: every third page written, every third only read, the others not
// touched; shared memory the same, of a file all of whose pages are there.
struct Child {
  Child() {
    void* where =
        ::mmap(nullptr, kPages * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(where != MAP_FAILED);
    own = HostVirt{reinterpret_cast<std::uintptr_t>(where)};
    REQUIRE(::fallocate(file->get(), 0, 0, static_cast<off_t>(kPages * kPageSize)) == 0);
    auto mapping = sys::Mapping::shared(*file, ByteCount{kPages * kPageSize});
    REQUIRE(mapping.has_value());
    shared = HostVirt{reinterpret_cast<std::uintptr_t>(mapping->data())};
    pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      // Anew, so that nothing is shared with the parent.
      void* fresh = ::mmap(where, kPages * kPageSize, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      if (fresh != where) ::_exit(1);
      ::madvise(fresh, kPages * kPageSize, MADV_NOHUGEPAGE);
      touch(static_cast<std::byte*>(fresh));
      touch(mapping->data());
      for (;;) ::raise(SIGSTOP);  // nothing of it runs, and touches memory, from here on
    }
    ::munmap(where, kPages * kPageSize);
    int status = 0;
    REQUIRE(::waitpid(pid, &status, WUNTRACED) == pid);
    REQUIRE(WIFSTOPPED(status));
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void end() {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = 0;
  }

  static void touch(std::byte* memory) {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      std::byte* at = memory + page * kPageSize;
      if (page % 3 == 0) *at = std::byte{static_cast<unsigned char>(1 + page % 200)};
      if (page % 3 == 1) static_cast<void>(*static_cast<volatile std::byte*>(at));
    }
  }

  Result<sys::Fd> file = sys::make_memfd("child", ByteCount{kPages * kPageSize}, sys::Sealed::yes);
  HostVirt own, shared;
  pid_t pid = 0;
};

// What is present, and how much memory the kernel says the process has.
struct Footprint {
  std::vector<bool> present;
  ByteCount resident, page_tables;
  bool operator==(const Footprint&) const = default;
};
Footprint footprint_of(const Child& child) {
  Footprint found;
  const auto memory = sys::RemoteMemory::open(child.pid);
  REQUIRE(memory.has_value());
  for (const HostVirt begin : {child.own, child.shared}) {
    std::vector<std::uint64_t> entries(kPages);
    REQUIRE(memory->entries(begin, entries) == kPages);
    for (const std::uint64_t entry : entries) {
      found.present.push_back((entry & sys::kEntryPresent) != 0);
    }
  }
  const auto status = sys::Procfs().status(child.pid);
  REQUIRE(status.has_value());
  found.resident = status->resident;
  found.page_tables = status->page_tables;
  return found;
}

std::map<std::uint64_t, PageCopy> all_of(ProcessRam& ram) {
  std::map<std::uint64_t, PageCopy> seen;
  REQUIRE(ram.each([&](PageIndex place, const PageCopy& page) {
    REQUIRE(seen.emplace(place.value, page).second);
    return true;
  }));
  return seen;
}

}  // namespace

TEST_CASE("what is present is read, and nothing becomes present by it") {
  const Child child;
  const std::vector<RamRange> ranges{{child.own, ByteCount{kPages * kPageSize}, false},
                                     {child.shared, ByteCount{kPages * kPageSize}, true}};
  const Footprint before = footprint_of(child);
  auto ram = ProcessRam::open(child.pid, ranges);
  REQUIRE(ram.has_value());
  CHECK((*ram)->size() == PageCount{2 * kPages});
  const auto seen = all_of(**ram);
  PageCopy again;
  for (std::uint64_t page = 0; page < 2 * kPages; ++page) {
    const bool written = page % kPages % 3 == 0;
    // The kernel maps the pages of a file around the one that is asked for: all may be there. Of
    // memory of the process's own a page that was only read takes none, and one not touched is not
    // there.
    const bool is_own = page < kPages;
    if (is_own) CHECK(seen.contains(page) == written);
    if (!written && is_own) continue;
    REQUIRE(seen.contains(page) == before.present[page]);
    if (!seen.contains(page)) continue;
    const auto expected = static_cast<unsigned char>(written ? 1 + page % kPages % 200 : 0);
    CHECK(std::to_integer<unsigned char>(seen.at(page).bytes[0]) == expected);
    CHECK((*ram)->read(PageIndex{page}, again));
    CHECK(again.bytes == seen.at(page).bytes);
  }
  CHECK_FALSE((*ram)->read(PageIndex{2}, again));
  CHECK_FALSE((*ram)->read(PageIndex{2 * kPages}, again));
  CHECK((*ram)->left_out().moved == PageCount{0});
  CHECK((*ram)->left_out().swapped == PageCount{0});
  CHECK(footprint_of(child) == before);
}

TEST_CASE("the check of the one above can fail: a plain read of a hole leaves its mark") {
  const Child child;
  const Footprint before = footprint_of(child);
  const auto memory = sys::RemoteMemory::open(child.pid);
  const HostVirt hole{child.own.value + 2 * kPageSize};
  PageCopy page;
  REQUIRE(memory->read({&hole, 1}, {&page, 1}) == 1);
  CHECK_FALSE(footprint_of(child) == before);
}

TEST_CASE("memory that is taken away, and a process that ends") {
  Child child;
  // The last page of the range is no longer mapped: it is not there, and that is no error.
  auto ram =
      ProcessRam::open(child.pid, {{child.own, ByteCount{(kPages + 64) * kPageSize}, false}});
  REQUIRE(ram.has_value());
  child.end();
  const Status read = (*ram)->each([](PageIndex, const PageCopy&) { return true; });
  REQUIRE_FALSE(read);
  CHECK(read.error().code == ESRCH);
  CHECK(ProcessRam::open(4'194'304, {}).error().code == ESRCH);
}
