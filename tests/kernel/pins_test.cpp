// SPDX-License-Identifier: GPL-2.0-or-later
// What the kernel says of pages that are held in every way we can hold them (sys/pin_test.hpp).
// pins_test: all but swap; pins_test "[swap]" where there is swap.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/page_copy.hpp"
#include "patience.hpp"
#include "silent_fuse.hpp"
#include "sys/memory.hpp"
#include "sys/page_batches.hpp"
#include "sys/pin_test.hpp"
#include "sys/uffd.hpp"

using namespace ramfold;
using sys::PinAnswer;
using test::soon;

namespace {

// Loaded once, as the daemon does.
const sys::PinTest& pin_test() {
  static const auto loaded = sys::PinTest::load(sys::Procfs());
  if (!loaded) {
    std::printf("%s\n", loaded.error().text().c_str());
    std::exit(77);
  }
  return *loaded;
}

PinAnswer answer(sys::BorrowedFd file, std::uint64_t page) {
  PinAnswer said{};
  CHECK(pin_test().ask(file, page, {&said, 1}));
  return said;
}

// New pages lie in a CPU's batch, and what is let go of may take a moment.
bool becomes(PinAnswer expected, sys::BorrowedFd file, std::uint64_t page) {
  return soon([&] {
    if (answer(file, page) == expected) return true;
    sys::drain_page_batches();
    return false;
  });
}

// Memory as a VM's RAM: a memory file, mapped once.
struct Ram {
  explicit Ram(std::uint64_t pages)
      : file(std::move(*sys::make_memfd("ram", ByteCount{pages << kPageShift}, sys::Sealed::no))),
        mapping(std::move(*sys::Mapping::shared(file, ByteCount{pages << kPageShift}))) {
    REQUIRE(::madvise(mapping.data(), mapping.size(), MADV_NOHUGEPAGE) == 0);
  }
  std::byte* at(std::uint64_t p) const { return mapping.data() + (p << kPageShift); }
  void touch(std::uint64_t p) const { *static_cast<volatile std::byte*>(at(p)) = std::byte{7}; }
  // Touched and quiet, as pages are that a guest has used for a while.
  void settle(std::uint64_t first, std::uint64_t count) const {
    for (std::uint64_t p = first; p < first + count; ++p) touch(p);
    for (std::uint64_t p = first; p < first + count; ++p)
      REQUIRE(becomes(PinAnswer::quiet, file, p));
  }
  PinAnswer says(std::uint64_t p) const { return answer(file, p); }
  bool is_quiet_soon(std::uint64_t p) const { return becomes(PinAnswer::quiet, file, p); }
  iovec vector(std::uint64_t p) const { return {at(p), kPageSize}; }

  sys::Fd file;
  sys::Mapping mapping;
};

struct Pipe {
  Pipe() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
  void close() {
    out.reset();
    in.reset();
  }
  sys::Fd out, in;
};

}  // namespace

TEST_CASE("pages are quiet or holes, one by one and in runs") {
  const Ram ram(1024);
  std::vector<bool> there(1024);
  for (std::uint64_t p = 0; p < 1024; ++p) {
    there[p] = p % 3 != 0 && p / 64 % 4 != 1;
    if (there[p]) ram.settle(p, 1);
  }
  for (const std::size_t n : {1u, 2u, 16u, 63u, 64u}) {
    for (std::uint64_t first = 0; first + n <= 1024; first += 7) {
      std::array<PinAnswer, sys::PinTest::kPagesMax.value> said{};
      REQUIRE(pin_test().ask(ram.file, first, std::span(said).first(n)));
      for (std::size_t i = 0; i < n; ++i)
        REQUIRE(said[i] == (there[first + i] ? PinAnswer::quiet : PinAnswer::hole));
      if (n < said.size()) CHECK(said[n] == PinAnswer::unanswered);
    }
  }
  CHECK(ram.says(1'000'000) == PinAnswer::hole);  // beyond the end
  CHECK(pin_test().ask(ram.file, 0, {}));
}

TEST_CASE("trees of one entry, and high ones, are walked") {
  const Ram one(64);
  CHECK(one.says(0) == PinAnswer::hole);
  one.settle(0, 1);
  std::array<PinAnswer, 64> said{};
  REQUIRE(pin_test().ask(one.file, 0, said));
  for (std::size_t i = 1; i < said.size(); ++i) CHECK(said[i] == PinAnswer::hole);
  CHECK(said[0] == PinAnswer::quiet);

  constexpr std::uint64_t kFar = (std::uint64_t{8} << 40) >> kPageShift;  // 8 TiB
  const sys::Fd file =
      std::move(*sys::make_memfd("far", ByteCount{(kFar + 2) << kPageShift}, sys::Sealed::no));
  for (const std::uint64_t p : {std::uint64_t{1}, std::uint64_t{5000}, kFar + 1}) {
    const std::byte byte{7};
    REQUIRE(::pwrite(file.get(), &byte, 1, static_cast<off_t>(p << kPageShift)) == 1);
    CHECK(becomes(PinAnswer::quiet, file, p));  // in the page cache, in no page table
    CHECK(answer(file, p - 1) == PinAnswer::hole);
  }
}

TEST_CASE("a page that is stored to, forgotten, locked or punched is held by nobody") {
  const Ram ram(16);
  ram.settle(0, 16);
  for (int i = 0; i < 100; ++i) {
    ram.touch(1);
    CHECK(ram.says(1) == PinAnswer::quiet);
  }
  REQUIRE(::madvise(ram.at(2), kPageSize, MADV_DONTNEED) == 0);
  CHECK(ram.is_quiet_soon(2));
  REQUIRE(::mlock(ram.at(3), kPageSize) == 0);
  CHECK(ram.is_quiet_soon(3));
  REQUIRE(sys::punch(ram.file, ByteCount{4 * kPageSize}, ByteCount{kPageSize}).has_value());
  CHECK(ram.says(4) == PinAnswer::hole);
}

TEST_CASE("D1: a registered buffer is busy until it is released") {
  const Ram ram(8);
  ram.settle(0, 8);
  io_uring_params params{};
  sys::Fd ring(static_cast<int>(::syscall(__NR_io_uring_setup, 1, &params)));
  if (!ring) {
    WARN("not tried: io_uring: " << std::strerror(errno));
    return;
  }
  const iovec buffer{ram.at(2), 3 * kPageSize};
  REQUIRE(::syscall(__NR_io_uring_register, ring.get(), IORING_REGISTER_BUFFERS, &buffer, 1) == 0);
  for (std::uint64_t p = 0; p < 8; ++p)
    CHECK(ram.says(p) == (p >= 2 && p < 5 ? PinAnswer::busy : PinAnswer::quiet));
  SECTION("by its owner") {
    REQUIRE(::syscall(__NR_io_uring_register, ring.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0) ==
            0);
  }
  SECTION("by its end") { ring.reset(); }
  for (std::uint64_t p = 2; p < 5; ++p) CHECK(ram.is_quiet_soon(p));
}

TEST_CASE("D1: what a pipe holds is busy until it is read") {
  const Ram ram(8);
  ram.settle(0, 8);
  Pipe pipe;
  SECTION("vmsplice of the memory") {
    const iovec v = ram.vector(2);
    REQUIRE(::vmsplice(pipe.in.get(), &v, 1, 0) == static_cast<ssize_t>(kPageSize));
  }
  SECTION("splice from the file") {
    loff_t at = 2 * kPageSize;
    REQUIRE(::splice(ram.file.get(), &at, pipe.in.get(), nullptr, kPageSize, 0) ==
            static_cast<ssize_t>(kPageSize));
  }
  CHECK(ram.says(2) == PinAnswer::busy);
  CHECK(ram.says(1) == PinAnswer::quiet);
  pipe.close();
  CHECK(ram.is_quiet_soon(2));
}

TEST_CASE("D1: an O_DIRECT read of a slow disk makes its pages busy until it has ended") {
  test::SilentFuse fuse(test::Silent::at_read);
  const sys::Fd file(fuse.works() ? fuse.open_file() : -1);
  if (!file || ::fcntl(file.get(), F_SETFL, O_DIRECT) != 0) {
    WARN("not tried: no FUSE file for O_DIRECT");
    return;
  }
  const Ram ram(8);
  ram.settle(0, 8);
  std::thread reader([&] { (void)!::pread(file.get(), ram.at(2), kPageSize, 0); });
  CHECK(becomes(PinAnswer::busy, ram.file, 2));
  CHECK(ram.says(1) == PinAnswer::quiet);
  CHECK(ram.says(3) == PinAnswer::quiet);
  fuse.end();
  reader.join();
  CHECK(ram.is_quiet_soon(2));
}

TEST_CASE("D1: a write that has pinned its page and waits for its source makes it busy") {
  const sys::Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  const sys::Fd faults(device ? ::ioctl(device.get(), _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK)
                              : -1);
  if (!faults) {
    WARN("not tried: no /dev/userfaultfd");
    return;
  }
  const Ram ram(8), source(1);
  ram.settle(0, 8);
  const sys::Uffd uffd(faults);
  const sys::UffdRange hole{HostVirt{reinterpret_cast<std::uintptr_t>(source.at(0))},
                            ByteCount{kPageSize}};
  REQUIRE(uffd.handshake(sys::Uffd::kFeaturesNeeded).has_value());
  REQUIRE(uffd.register_range(hole).outcome == sys::Outcome::done);
  std::thread writer([&] {
    const iovec local = source.vector(0), remote = ram.vector(2);
    (void)!::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0);
  });
  CHECK(becomes(PinAnswer::busy, ram.file, 2));
  PageCopy page{};
  page.bytes.fill(std::byte{9});
  REQUIRE(
      uffd.copy(hole.start, page.bytes.data(), hole.size, sys::Guard::no, sys::Wake::yes).outcome ==
      sys::Outcome::done);
  writer.join();
  CHECK(*ram.at(2) == std::byte{9});
  CHECK(ram.is_quiet_soon(2));
}

TEST_CASE("D13: a second mapping shows, also a child's, until it is gone") {
  const Ram ram(8);
  ram.settle(0, 8);
  {
    auto second = sys::Mapping::shared(ram.file, ByteCount{8 * kPageSize});
    REQUIRE(second.has_value());
    CHECK(ram.says(2) == PinAnswer::quiet);  // not touched through it
    (void)*static_cast<volatile std::byte*>(second->data() + 2 * kPageSize);
    CHECK(ram.says(2) == PinAnswer::mapped_more);
  }
  CHECK(ram.is_quiet_soon(2));
  Pipe go;
  const pid_t child = ::fork();
  if (child == 0) {
    char c = 0;
    (void)*static_cast<volatile std::byte*>(ram.at(3));
    (void)!::read(go.out.get(), &c, 1);
    ::_exit(0);
  }
  CHECK(becomes(PinAnswer::mapped_more, ram.file, 3));
  CHECK(::write(go.in.get(), "x", 1) == 1);
  ::waitpid(child, nullptr, 0);
  CHECK(ram.is_quiet_soon(3));
}

TEST_CASE("D7: every page of a large folio is told") {
  // A file system of this test's own, so that no setting of the host changes.
  std::string path = "/tmp/ramfold-pins-XXXXXX";
  const bool mounted = ::unshare(CLONE_NEWNS) == 0 &&
                       ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                       ::mkdtemp(path.data()) != nullptr &&
                       ::mount("ramfold-test", path.c_str(), "tmpfs", 0, "huge=always") == 0;
  if (!mounted) {
    WARN("not tried: no file system with large folios");
    return;
  }
  constexpr std::uint64_t kLargePages = 512;
  {
    const sys::Fd file(::open((path + "/ram").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(::ftruncate(file.get(), 3 * kLargePages << kPageShift) == 0);
    const std::byte byte{7};
    const off_t at = kLargePages << kPageShift;
    REQUIRE(::pwrite(file.get(), &byte, 1, at) == 1);
    const bool large = answer(file, kLargePages + 100) != PinAnswer::hole;
    if (!large) WARN("not tried: no large folio to be had");
    for (std::uint64_t p = kLargePages; large && p < 2 * kLargePages; ++p)
      CHECK(answer(file, p) == PinAnswer::large);
    CHECK(answer(file, kLargePages - 1) == PinAnswer::hole);
    CHECK(answer(file, 2 * kLargePages) == PinAnswer::hole);
  }
  ::umount2(path.c_str(), MNT_DETACH);
  ::rmdir(path.c_str());
}

TEST_CASE("a page in swap is told", "[.][swap]") {
  const Ram ram(64);
  ram.settle(0, 64);
  REQUIRE(soon([&] {
    (void)::madvise(ram.at(0), 64 * kPageSize, MADV_PAGEOUT);
    return ram.says(2) == PinAnswer::swapped;
  }));
  ram.touch(2);
  CHECK(ram.is_quiet_soon(2));
}

// The counts of a page that comes and goes in the page table change while they are read. (A reader
// that does not read them at one moment shows only when it is stopped in between: this is no proof.
// tests/model/pins.pml has the interleavings.)
TEST_CASE("a page that is held is never quiet, however its mapping comes and goes") {
  const Ram ram(8);
  ram.settle(0, 8);
  Pipe pipe;
  const iovec v = ram.vector(2);
  REQUIRE(::vmsplice(pipe.in.get(), &v, 1, 0) == static_cast<ssize_t>(kPageSize));
  std::atomic<bool> stop{false};
  std::thread forgetful([&] {
    while (!stop) {
      (void)*static_cast<volatile std::byte*>(ram.at(2));
      (void)::madvise(ram.at(2), kPageSize, MADV_DONTNEED);
    }
  });
  std::array<std::uint64_t, 8> said{};
  for (int i = 0; i < 200'000; ++i) ++said[static_cast<std::size_t>(ram.says(2))];
  stop = true;
  forgetful.join();
  CHECK(said[static_cast<std::size_t>(PinAnswer::quiet)] == 0);
  CHECK(said[static_cast<std::size_t>(PinAnswer::busy)] > 0);
}

TEST_CASE("what comes and goes is told as it is, and breaks nothing") {
  const Ram ram(4096);
  std::atomic<bool> stop{false};
  std::thread churning([&] {
    for (std::uint64_t i = 0; !stop; ++i) {
      const std::uint64_t p = i * 2654435761u % 4096;
      ram.touch(p);
      if (i % 64 == 0)
        (void)sys::punch(ram.file, ByteCount{p / 512 * 512 << kPageShift},
                         ByteCount{512 * kPageSize});
    }
  });
  for (std::uint64_t i = 0; i < 5'000; ++i) {
    std::array<PinAnswer, 64> said{};
    REQUIRE(pin_test().ask(ram.file, i * 61 % 4032, said));
    for (const PinAnswer one : said) {
      REQUIRE(one != PinAnswer::unanswered);
      REQUIRE(one != PinAnswer::swapped);
      REQUIRE(one != PinAnswer::large);
    }
  }
  stop = true;
  churning.join();
}

TEST_CASE("without a file there is no answer") {
  for (const int fd : {-1, 1'000'000'000}) {
    std::array<PinAnswer, 3> said{PinAnswer::quiet, PinAnswer::quiet, PinAnswer::quiet};
    CHECK_FALSE(pin_test().ask(sys::BorrowedFd(fd), 0, said));
    for (const PinAnswer one : said) CHECK(one == PinAnswer::unanswered);
  }
  int closed = -1;
  {
    closed = Ram(1).file.get();
  }
  PinAnswer said{};
  CHECK_FALSE(pin_test().ask(sys::BorrowedFd(closed), 0, {&said, 1}));
}

TEST_CASE("many threads ask at once, each about its own file") {
  constexpr std::uint64_t kPages = 64;
  std::vector<std::unique_ptr<Ram>> rams;
  for (std::uint64_t t = 0; t < 4; ++t) {
    rams.push_back(std::make_unique<Ram>(kPages));
    for (std::uint64_t p = t; p < kPages; p += 4) rams.back()->settle(p, 1);
  }
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> wrong{0};
  for (std::uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3000; ++i) {
        std::array<PinAnswer, kPages> said{};
        if (!pin_test().ask(rams[t]->file, 0, said)) ++wrong;
        for (std::uint64_t p = 0; p < kPages; ++p)
          wrong += said[p] != (p % 4 == t ? PinAnswer::quiet : PinAnswer::hole);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

// The daemon drops the capabilities when the program is loaded.
TEST_CASE("loading takes capabilities, asking takes none") {
  const Ram ram(1);
  ram.settle(0, 1);
  std::optional<PinAnswer> said;
  std::optional<sys::PinTestRefusal> refused;
  std::thread([&] {  // capabilities are a thread's
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> none{};
    if (::syscall(SYS_capset, &header, none.data()) != 0) return;
    PinAnswer one{};
    if (pin_test().ask(ram.file, 0, {&one, 1})) said = one;
    if (const auto loaded = sys::PinTest::load(sys::Procfs()); !loaded) refused = loaded.error();
  })
      .join();
  CHECK(said == PinAnswer::quiet);
  REQUIRE(refused.has_value());
  CHECK(refused->why == sys::PinTestRefusal::Why::not_permitted);
  INFO(refused->text());
  CHECK(refused->remedy().find("CAP_BPF") != std::string_view::npos);
}
