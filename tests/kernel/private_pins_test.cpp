// SPDX-License-Identifier: GPL-2.0-or-later
// What the kernel says of private copies that are held in several ways (sys/private_pins.hpp).
#include "sys/private_pins.hpp"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "patience.hpp"
#include "sys/memory.hpp"
#include "sys/page_batches.hpp"
#include "sys/pin_test.hpp"

using namespace ramfold;
using sys::PinAnswer;
using test::soon;

namespace {

constexpr std::uint64_t kPages = 64;

const sys::PrivatePins& pins() {
  static const auto loaded = sys::PrivatePins::load(sys::Procfs());
  if (!loaded) {
    std::printf("%s\n", loaded.error().text().c_str());
    std::exit(77);
  }
  return *loaded;
}

// A file of a pool, mapped as the agent maps it.
struct Pool {
  sys::Fd file =
      std::move(*sys::make_memfd("pool", ByteCount{kPages * kPageSize}, sys::Sealed::no));
  sys::Mapping mapping = std::move(*sys::Mapping::private_of(file, ByteCount{kPages * kPageSize}));
  sys::Pagemap pagemap{::getpid(), sys::BorrowedFd(-1)};

  Pool() { REQUIRE(::madvise(mapping.data(), mapping.size(), MADV_NOHUGEPAGE) == 0); }
  volatile std::byte* at(std::uint64_t p) const { return mapping.data() + p * kPageSize; }
  HostVirt address(std::uint64_t p) const {
    return HostVirt{reinterpret_cast<std::uintptr_t>(mapping.data()) + p * kPageSize};
  }
  PinAnswer says(std::uint64_t p) const {
    PinAnswer said{};
    CHECK(pins().ask(pagemap, address(p), {&said, 1}));
    return said;
  }
  bool becomes(PinAnswer expected, std::uint64_t p) const {
    return soon([&] {
      if (says(p) == expected) return true;
      sys::drain_page_batches();
      return false;
    });
  }
};

struct Pipe {
  sys::Fd out, in;
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
};

}  // namespace

TEST_CASE("copies are quiet, and pages without a copy are holes, one by one and in runs") {
  const Pool pool;
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (p % 3 == 0) *pool.at(p) = std::byte{7};
    if (p % 3 == 1) (void)*pool.at(p);
  }
  for (std::uint64_t p = 0; p < kPages; p += 3) REQUIRE(pool.becomes(PinAnswer::quiet, p));
  for (const std::size_t n : {1u, 5u, 16u}) {
    for (std::uint64_t first = 0; first + n <= kPages; ++first) {
      std::array<PinAnswer, 16> said{};
      REQUIRE(pins().ask(pool.pagemap, pool.address(first), std::span(said).first(n)));
      for (std::size_t i = 0; i < n; ++i)
        REQUIRE(said[i] == ((first + i) % 3 == 0 ? PinAnswer::quiet : PinAnswer::hole));
      if (n < said.size()) CHECK(said[n] == PinAnswer::unanswered);
    }
  }
}

TEST_CASE("a copy that a pipe holds is busy until it is let go") {
  const Pool pool;
  *pool.at(3) = std::byte{1};
  REQUIRE(pool.becomes(PinAnswer::quiet, 3));
  {
    const Pipe pipe;
    const iovec vector{pool.mapping.data() + 3 * kPageSize, kPageSize};
    REQUIRE(::vmsplice(pipe.in.get(), &vector, 1, 0) == kPageSize);
    CHECK(pool.says(3) == PinAnswer::busy);
  }
  CHECK(pool.becomes(PinAnswer::quiet, 3));
}

TEST_CASE("a registered buffer of io_uring makes its copy busy") {
  const Pool pool;
  io_uring_params params{};
  sys::Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params)));
  if (!ring) {
    WARN("io_uring is not to be had here");
    return;
  }
  *pool.at(5) = std::byte{1};
  REQUIRE(pool.becomes(PinAnswer::quiet, 5));
  const iovec vector{pool.mapping.data() + 5 * kPageSize, kPageSize};
  REQUIRE(::syscall(SYS_io_uring_register, ring.get(), IORING_REGISTER_BUFFERS, &vector, 1) == 0);
  CHECK(pool.says(5) == PinAnswer::busy);
  // What it pins is a copy although nobody wrote: it was made for the pin.
  const Pool other;
  const iovec unwritten{other.mapping.data(), kPageSize};
  sys::Fd second(static_cast<int>(::syscall(SYS_io_uring_setup, 1, &params)));
  REQUIRE(::syscall(SYS_io_uring_register, second.get(), IORING_REGISTER_BUFFERS, &unwritten, 1) ==
          0);
  CHECK(other.says(0) == PinAnswer::busy);
  ring.reset();
  CHECK(pool.becomes(PinAnswer::quiet, 5));
}

TEST_CASE("a copy that two processes map shows") {
  const Pool pool;
  *pool.at(0) = std::byte{1};
  REQUIRE(pool.becomes(PinAnswer::quiet, 0));
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  CHECK(pool.says(0) == PinAnswer::mapped_more);
  REQUIRE(::kill(child, SIGKILL) == 0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(pool.becomes(PinAnswer::quiet, 0));
}

// Run by storm/with_swap.py, with a zram device to swap to.
TEST_CASE("the swap cache does not make a copy busy, and does not hide who does", "[.][swap]") {
  const Pool pool;
  for (const bool is_held : {false, true}) {
    const std::uint64_t p = is_held ? 9 : 8;
    *pool.at(p) = std::byte{5};
    REQUIRE(pool.becomes(PinAnswer::quiet, p));
    const Pipe pipe;
    const iovec vector{pool.mapping.data() + p * kPageSize, kPageSize};
    if (is_held) REQUIRE(::vmsplice(pipe.in.get(), &vector, 1, 0) == kPageSize);
    REQUIRE(soon([&] {
      (void)::madvise(vector.iov_base, kPageSize, MADV_PAGEOUT);
      return pool.says(p) == PinAnswer::swapped;
    }));
    // A read leaves it in the swap cache.
    REQUIRE(*pool.at(p) == std::byte{5});
    if (is_held) {
      CHECK(pool.says(p) == PinAnswer::busy);
    } else {
      CHECK(pool.becomes(PinAnswer::quiet, p));
    }
  }
}

TEST_CASE("a large page of copies shows as such") {
  constexpr ByteCount kSize{4u << 20};
  const auto memory = sys::Mapping::anonymous(kSize);
  REQUIRE(memory);
  (void)::madvise(memory->data(), kSize.value, MADV_HUGEPAGE);
  for (std::size_t at = 0; at < kSize.value; at += kPageSize)
    static_cast<volatile std::byte*>(memory->data())[at] = std::byte{1};
  const sys::Pagemap own(::getpid(), sys::BorrowedFd(-1));
  const HostVirt start{reinterpret_cast<std::uintptr_t>(memory->data())};
  std::array<sys::PageRegion, 1> found{};
  HostVirt walked;
  const auto n = own.scan({start, kSize}, sys::kPageHuge, sys::kPageHuge, found, walked);
  if (!n || *n == 0) {
    WARN("there are no large pages here");
    return;
  }
  PinAnswer said{};
  for (const std::uint64_t page : {0u, 1u, 511u}) {
    REQUIRE(pins().ask(own, HostVirt{found[0].start + page * kPageSize}, {&said, 1}));
    CHECK(said == PinAnswer::large);
  }
}

TEST_CASE("D1: a page that maps a large folio of the file has no copy, whoever made it large") {
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which asks no setting of the host's
  constexpr std::size_t kLarge = 2u << 20;
  constexpr ByteCount kSize{kLarge};
  const sys::Fd file = std::move(*sys::make_memfd("pool", kSize, sys::Sealed::no));
  const std::vector<char> bytes(kLarge, 7);
  REQUIRE(::pwrite(file.get(), bytes.data(), kLarge, 0) == static_cast<ssize_t>(kLarge));
  // As the agent maps it, with a copy of page 2.
  const sys::Mapping mapping = std::move(*sys::Mapping::private_of(file, kSize));
  REQUIRE(::madvise(mapping.data(), kLarge, MADV_NOHUGEPAGE) == 0);
  volatile std::byte* const at = mapping.data();
  at[2 * kPageSize] = std::byte{1};
  // Another process that may only read the file makes it large.
  const pid_t other = ::fork();
  if (other == 0) {
    const std::string path = "/proc/self/fd/" + std::to_string(file.get());
    const int reader = ::open(path.c_str(), O_RDONLY);
    void* const room = ::mmap(nullptr, 2 * kLarge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const auto aligned = (reinterpret_cast<std::uintptr_t>(room) + kLarge - 1) & ~(kLarge - 1);
    auto* const there = reinterpret_cast<void*>(aligned);
    if (::mmap(there, kLarge, PROT_READ, MAP_SHARED | MAP_FIXED, reader, 0) == MAP_FAILED)
      ::_exit(1);
    ::_exit(::madvise(there, kLarge, kCollapse) == 0 ? 0 : 2);
  }
  int status = 0;
  REQUIRE(::waitpid(other, &status, 0) == other);
  const auto test = sys::PinTest::load(sys::Procfs());
  REQUIRE(test.has_value());
  PinAnswer in_file{};
  REQUIRE(test->ask(file, 0, {&in_file, 1}));
  if (status != 0 || in_file != PinAnswer::large) {
    WARN("the kernel makes no large folio of a file here");
    return;
  }
  const sys::Pagemap own(::getpid(), sys::BorrowedFd(-1));
  const auto says = [&](std::uint64_t page) {
    PinAnswer said{};
    const HostVirt address{reinterpret_cast<std::uintptr_t>(mapping.data()) + page * kPageSize};
    CHECK(pins().ask(own, address, {&said, 1}));
    return said;
  };
  for (const std::uint64_t page : {0u, 1u, 511u}) {
    CHECK(at[page * kPageSize] == std::byte{7});
    CHECK(says(page) == PinAnswer::hole);
  }
  CHECK(soon([&] {
    sys::drain_page_batches();
    return says(2) == PinAnswer::quiet;
  }));
  at[511 * kPageSize] = std::byte{1};
  CHECK(soon([&] {
    sys::drain_page_batches();
    return says(511) == PinAnswer::quiet;
  }));
  CHECK(says(1) == PinAnswer::hole);
}

TEST_CASE("the mappings of a process are counted as the kernel counts them") {
  const Pool pool;
  const auto lines = [] {
    std::ifstream maps("/proc/self/maps");
    std::uint64_t n = 0;
    for (std::string line; std::getline(maps, line);) n += line.ends_with("[vsyscall]") ? 0 : 1;
    return n;
  };
  const auto counted = pins().mappings(pool.pagemap);
  REQUIRE(counted);
  CHECK(*counted == lines());
  REQUIRE(::mprotect(pool.mapping.data() + kPageSize, kPageSize, PROT_READ) == 0);
  CHECK(*pins().mappings(pool.pagemap) == lines());
  CHECK(*pins().mappings(pool.pagemap) >= *counted + 2);
}

TEST_CASE("of a process that is gone nothing is called quiet") {
  const Pool pool;
  *pool.at(0) = std::byte{1};
  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const sys::Pagemap theirs(child, sys::BorrowedFd(-1));
  PinAnswer said{};
  CHECK(pins().ask(theirs, pool.address(0), {&said, 1}));
  CHECK(said == PinAnswer::mapped_more);
  REQUIRE(::kill(child, SIGKILL) == 0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  (void)pins().ask(theirs, pool.address(0), {&said, 1});
  CHECK(said != PinAnswer::quiet);
}
