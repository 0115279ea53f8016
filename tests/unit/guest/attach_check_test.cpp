// SPDX-License-Identifier: GPL-2.0-or-later
// The test's own process plays QEMU: its memory files and mappings are real.
#include "guest/attach_check.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <utility>

#include "sys/memory.hpp"

using namespace ramfold;
using namespace ramfold::guest;
using ramfold::sys::Fd;
using ramfold::sys::Mapping;

namespace {

constexpr std::uint64_t kSize = 1u << 20;

Fd make_uffd(int flags = O_CLOEXEC | O_NONBLOCK) {
  return Fd(static_cast<int>(::syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY)));
}

Fd make_ram(unsigned seals = F_SEAL_SHRINK | F_SEAL_GROW, unsigned flags = 0) {
  Fd fd(::memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  REQUIRE(::ftruncate(fd.get(), kSize * 2) == 0);
  REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, seals) == 0);
  return fd;
}

// Two RAM files, each mapped once, and the offer that says so.
struct Guest {
  Guest() {
    fds.push_back(make_uffd());
    for (std::size_t i = 0; i < 2; ++i) add(make_ram());
  }
  void add(Fd fd, ByteCount offset = {}) {
    auto mapping = Mapping::shared(fd, ByteCount{kSize}, offset);
    REQUIRE(mapping);
    struct stat st{};
    REQUIRE(::fstat(fd.get(), &st) == 0);
    offer.block[offer.blocks++] = {reinterpret_cast<std::uintptr_t>(mapping->data()), kSize,
                                   offset.value, st.st_dev, st.st_ino};
    maps.push_back(std::move(*mapping));
    fds.push_back(std::move(fd));
  }
  Result<CheckedOffer> check(pid_t pid = ::getpid()) const {
    return check_offer(offer, pid, fds, procfs);
  }
  std::string refusal() const {
    const auto checked = check();
    return checked ? "" : checked.error().what;
  }

  sys::Procfs procfs;
  rf_offer offer{};
  std::vector<Fd> fds;
  std::vector<Mapping> maps;
};

constexpr const char* kNotMapped =
    "RAM is not mapped exactly where the offer says, shared, writable, once";

}  // namespace

TEST_CASE("a true offer is taken") {
  Guest guest;
  if (!guest.fds[0]) {
    WARN("no userfaultfd here");
    return;
  }
  const auto checked = guest.check();
  REQUIRE(checked);
  CHECK(checked->blocks.size() == 2);
  CHECK(checked->pages.value == 2 * kSize / kPageSize);
  CHECK(checked->uid == ::getuid());
  CHECK(checked->start_ticks != 0);
  SECTION("also a file of which only a part is mapped") {
    guest.add(make_ram(), ByteCount{kSize});
    CHECK(guest.check());
  }
  SECTION("also a mapping in pieces") {
    REQUIRE(::madvise(guest.maps[0].data() + kSize / 2, kPageSize, MADV_DONTFORK) == 0);
    CHECK(guest.check());
  }
}

TEST_CASE("descriptors that are not what they should be are refused") {
  Guest guest;
  if (!guest.fds[0]) return;
  SECTION("one too few") {
    guest.fds.pop_back();
    CHECK(guest.refusal() == "an offer's descriptors are not a userfaultfd and one for each block");
  }
  SECTION("one too many") {
    guest.fds.push_back(make_ram());
    CHECK(guest.refusal() == "an offer's descriptors are not a userfaultfd and one for each block");
  }
  SECTION("no blocks") {
    guest.offer.blocks = 0;
    CHECK(guest.refusal() == "an offer has no RAM blocks, or too many");
  }
  SECTION("a block count beyond the array") {
    guest.offer.blocks = RF_BLOCKS_MAX + 1;
    CHECK(guest.refusal() == "an offer has no RAM blocks, or too many");
  }
  SECTION("another object as the userfaultfd") {
    guest.fds[0] = Fd(::eventfd(0, EFD_NONBLOCK));
    CHECK(guest.refusal() == "the first descriptor is no userfaultfd");
  }
  SECTION("a userfaultfd that blocks its reader") {
    guest.fds[0] = make_uffd(O_CLOEXEC);
    CHECK(guest.refusal() == "the userfaultfd would block");
  }
  SECTION("a pipe as RAM") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    const Fd other(ends[1]);
    guest.fds[1] = Fd(ends[0]);
    CHECK(guest.refusal() == "a RAM file is not open for reading and writing");
  }
  SECTION("a file of the disk as RAM") {
    guest.fds[1] = Fd(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    CHECK(guest.refusal() == "a RAM file is no memory file");
  }
  SECTION("a file of a tmpfs as RAM: anybody may shrink it") {
    guest.fds[1] = Fd(::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (guest.fds[1]) CHECK(guest.refusal() == "a RAM file could shrink");
  }
  SECTION("opened for reading only") {
    const std::string path = "/proc/self/fd/" + std::to_string(guest.fds[1].get());
    guest.fds[1] = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    CHECK(guest.refusal() == "a RAM file is not open for reading and writing");
  }
  SECTION("O_PATH") {
    const std::string path = "/proc/self/fd/" + std::to_string(guest.fds[1].get());
    guest.fds[1] = Fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    CHECK(guest.refusal() == "a RAM file is not open for reading and writing");
  }
  SECTION("another memory file") {
    guest.fds[1] = make_ram();
    CHECK(guest.refusal() == "a RAM file is not the one that the offer names");
  }
  SECTION("the two exchanged") {
    std::swap(guest.fds[1], guest.fds[2]);
    CHECK(guest.refusal() == "a RAM file is not the one that the offer names");
  }
}

TEST_CASE("RAM files that could change under us are refused") {
  Guest guest;
  if (!guest.fds[0]) return;
  SECTION("no seal against shrinking") {
    guest.add(make_ram(F_SEAL_GROW));
    CHECK(guest.refusal() == "a RAM file could shrink");
  }
  SECTION("sealed against punching") {
    guest.add(make_ram(F_SEAL_SHRINK));
    REQUIRE(::fcntl(guest.fds.back().get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
    CHECK(guest.refusal() == "a RAM file is sealed against writing");
  }
  SECTION("shorter than its block") {
    Fd fd(::memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(fd.get(), kSize - kPageSize) == 0);
    REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    guest.add(std::move(fd));
    CHECK(guest.refusal() == "a RAM file is shorter than its block");
  }
  SECTION("hugetlbfs") {
    Fd fd(::memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
    if (!fd) return;
    REQUIRE(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) == 0);
    guest.fds[1] = std::move(fd);
    CHECK(guest.refusal() == "a RAM file lies on hugetlbfs");
  }
}

TEST_CASE("RAM that is not mapped as offered is refused") {
  Guest guest;
  if (!guest.fds[0]) return;
  rf_block& block = guest.offer.block[1];
  rf_block& higher = block.address < guest.offer.block[0].address ? guest.offer.block[0] : block;
  SECTION("elsewhere") { block.address += 64 * kSize; }
  SECTION("not at all") { guest.maps.pop_back(); }
  SECTION("only in part") { higher.size += kPageSize; }
  SECTION("more than was offered") { block.size /= 2; }
  SECTION("at another offset") { block.offset = kPageSize; }
  SECTION("read-only") { REQUIRE(::mprotect(guest.maps[1].data(), kPageSize, PROT_READ) == 0); }
  SECTION("private") {
    REQUIRE(::mmap(guest.maps[1].data(), kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
                   guest.fds[2].get(), 0) != MAP_FAILED);
  }
  SECTION("mapped over") {
    REQUIRE(::mmap(guest.maps[1].data(), kPageSize, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
  }
  SECTION("twice") {
    auto again = Mapping::shared(guest.fds[2], ByteCount{kPageSize});
    REQUIRE(again);
    guest.maps.push_back(std::move(*again));
  }
  CHECK(guest.refusal() == kNotMapped);
}

TEST_CASE("RAM of another process is refused") {
  const Guest guest;
  if (!guest.fds[0]) return;
  CHECK(guest.check(::getppid()).error().what == kNotMapped);
  CHECK_FALSE(guest.check(0));
  CHECK_FALSE(guest.check(-1));
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(guest.check(child).error().code == ESRCH);
}

TEST_CASE("the layout is checked here too") {
  Guest guest;
  if (!guest.fds[0]) return;
  guest.offer.block[1] = guest.offer.block[0];
  CHECK(guest.refusal() == "two RAM blocks overlap");
}
