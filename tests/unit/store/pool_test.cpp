// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/pool/pool.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "pages.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kSize{4u << 20};
constexpr Pool::Identity kIdentity{GroupId{3}, 0x1111, 0x2222};

std::unique_ptr<Pool> make() { return must(Pool::create(kIdentity, kSize)); }

std::vector<PoolSlot> run_of(Pool& pool, std::size_t n) {
  std::vector<PoolSlot> slots(n);
  must(pool.allocate_run(slots));
  return slots;
}
PoolSlot home_of(Pool& pool, std::uint32_t owner) {
  const PoolSlot slot = run_of(pool, 1).front();
  std::memset(pool.data(slot), 0x5a, kPageSize);
  REQUIRE(pool.settle(slot, ContentId{owner}));
  return slot;
}
std::uint64_t blocks_of(const Pool& pool) {
  struct stat st{};
  REQUIRE(::fstat(pool.file().get(), &st) == 0);
  return static_cast<std::uint64_t>(st.st_blocks) * 512;
}
bool adjacent(const std::vector<PoolSlot>& slots) {
  for (std::size_t i = 1; i < slots.size(); ++i) {
    if (slots[i].value != slots[i - 1].value + 1) return false;
  }
  return true;
}

// Tries to change the pool as another user would who has the descriptor. Returns the number of the
// first attempt that succeeded, 0 when none did.
int attack(int fd) {
  if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) return 100;
  // Otherwise /proc/self/fd would belong to root, and nothing could be opened there.
  if (::prctl(PR_SET_DUMPABLE, 1) != 0) return 101;
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int again = ::open(path.c_str(), O_RDONLY);
  if (again < 0) return 102;
  char byte = 0;
  if (::pread(again, &byte, 1, kPageSize) != 1 || byte != 0x5a) return 103;
  if (::open(path.c_str(), O_RDWR) >= 0) return 1;
  if (::open(path.c_str(), O_WRONLY) >= 0) return 2;
  if (::open(path.c_str(), O_RDONLY | O_TRUNC) >= 0) return 3;
  for (const int use : {fd, again}) {
    if (::pwrite(use, "x", 1, kPageSize) >= 0) return 4;
    if (::fallocate(use, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPageSize, kPageSize) == 0)
      return 5;
    if (::ftruncate(use, 0) == 0) return 6;
    if (::fcntl(use, F_ADD_SEALS, F_SEAL_WRITE) == 0) return 7;
    if (::fchmod(use, 0666) == 0) return 8;
    if (::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, use, kPageSize) !=
        MAP_FAILED)
      return 9;
    void* const at = ::mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, use, kPageSize);
    if (at == MAP_FAILED) return 104;
    if (::mprotect(at, kPageSize, PROT_READ | PROT_WRITE) == 0) return 10;
    if (::madvise(at, kPageSize, MADV_REMOVE) == 0) return 11;
  }
  return 0;
}

int result_of_attack(const Pool& pool) {
  const sys::Fd fd = must(pool.read_only());
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  // A QEMU has the descriptor for reading alone.
  if (child == 0) {
    if (::dup2(fd.get(), 3) != 3 || ::close_range(4, ~0u, 0) != 0) ::_exit(105);
    ::_exit(attack(3));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("another user who has a pool's descriptor reads it and changes nothing") {
  if (::geteuid() != 0) return;  // needs another uid
  auto pool = make();
  REQUIRE(home_of(*pool, 7).value == 1);
  CHECK(result_of_attack(*pool) == 0);
  CHECK(pool->data(PoolSlot{1})[0] == std::byte{0x5a});
  // The attack can succeed: without the mode it does.
  REQUIRE(::fchmod(pool->file().get(), 0666) == 0);
  CHECK(result_of_attack(*pool) == 1);
}

TEST_CASE("a run of slots is adjacent, and a hole is filled when it is long enough") {
  auto pool = make();
  const auto first = run_of(*pool, 64);
  const auto second = run_of(*pool, 10);
  const auto third = run_of(*pool, 64);
  CHECK(adjacent(first));
  CHECK(adjacent(second));
  CHECK(adjacent(third));
  for (const PoolSlot slot : second) CHECK(pool->give_back(slot));
  pool->punch_retired();
  // The whole pool but that hole.
  std::size_t taken = 128;
  while (taken + 64 + 10 <= kSize.value / kPageSize - 1) taken += run_of(*pool, 64).size();
  while (taken + 10 < kSize.value / kPageSize - 1) taken += run_of(*pool, 1).size();
  const auto refilled = run_of(*pool, 10);
  CHECK(blocks_of(*pool) == kSize.value);
  std::array<PoolSlot, 1> none{};
  const Status full = pool->allocate_run(none);
  REQUIRE_FALSE(full);
  CHECK(full.error().code == ENOSPC);
  CHECK(adjacent(refilled) == (refilled.front() == second.front()));
}

TEST_CASE("a slot without a long hole comes in shorter runs") {
  auto pool = make();
  std::vector<PoolSlot> all;
  while (all.size() < kSize.value / kPageSize - 1) {
    const auto next =
        run_of(*pool, std::min<std::size_t>(64, kSize.value / kPageSize - 1 - all.size()));
    all.insert(all.end(), next.begin(), next.end());
  }
  for (std::size_t i = 0; i < all.size(); i += 2) CHECK(pool->give_back(all[i]));
  pool->punch_retired();
  const auto scattered = run_of(*pool, 8);
  for (const PoolSlot slot : scattered) CHECK(slot.value % 2 == all.front().value % 2);
}

TEST_CASE("D12: a slot is given out again only after it was punched, and reads as a hole then") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  const std::uint64_t with_page = blocks_of(*pool);
  REQUIRE(pool->map(home, ContentId{7}) == home);
  CHECK_FALSE(pool->map(home, ContentId{8}));
  CHECK_FALSE(pool->retire(home, ContentId{8}));
  REQUIRE(pool->retire(home, ContentId{7}));
  CHECK_FALSE(pool->retire(home, ContentId{7}));
  pool->punch_retired();
  // A page maps it: it has its bytes, and nobody gets it.
  CHECK(pool->data(home)[100] == std::byte{0x5a});
  CHECK(blocks_of(*pool) == with_page);
  CHECK_FALSE(pool->map(home, ContentId{7}));
  for (const PoolSlot slot : run_of(*pool, 64)) CHECK(slot != home);
  REQUIRE(pool->unmap(home));
  CHECK_FALSE(pool->unmap(home));
  CHECK(pool->data(home)[100] == std::byte{0x5a});  // not before it is punched
  const std::uint64_t before = blocks_of(*pool);
  pool->punch_retired();
  CHECK(blocks_of(*pool) == before - kPageSize);
  CHECK(pool->allocated().value == blocks_of(*pool));
  std::byte byte{1};
  REQUIRE(::pread(pool->file().get(), &byte, 1, std::int64_t{home.value} * 4096) == 1);
  CHECK(byte == std::byte{0});
}

TEST_CASE("D12: a reader that holds the old page does not see what is written to its slot next") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  // The frame stays with the pipe, as it would with a device.
  std::array<int, 2> pipe{};
  REQUIRE(::pipe(pipe.data()) == 0);
  off_t from = std::int64_t{home.value} * 4096;
  REQUIRE(::splice(pool->file().get(), &from, pipe[1], nullptr, kPageSize, 0) == kPageSize);
  REQUIRE(pool->retire(home, ContentId{7}));
  pool->punch_retired();
  PoolSlot again{};
  while (again != home) again = run_of(*pool, 1).front();
  std::memset(pool->data(again), 0x33, kPageSize);
  std::array<std::byte, kPageSize> seen{};
  REQUIRE(::read(pipe[0], seen.data(), seen.size()) == kPageSize);
  for (const std::byte b : seen) REQUIRE(b == std::byte{0x5a});
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_CASE("a slot has at most 256 mappings, and the next ones are those of its spare") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  for (int i = 0; i < Pool::kMappingsMax; ++i) REQUIRE(pool->map(home, ContentId{7}) == home);
  CHECK_FALSE(pool->map(home, ContentId{7}));
  const PoolSlot spare = run_of(*pool, 1).front();
  REQUIRE(pool->settle_spare(spare, home, ContentId{7}) == Pool::Spare::settled);
  for (int i = 1; i < Pool::kMappingsMax; ++i) REQUIRE(pool->map(home, ContentId{7}) == spare);
  CHECK_FALSE(pool->map(home, ContentId{7}));
  CHECK(pool->mappings() == 512);
  // The spare goes with its last mapping, the home stays.
  for (int i = 0; i < Pool::kMappingsMax; ++i) REQUIRE(pool->unmap(spare));
  pool->punch_retired();
  CHECK(pool->allocated().value == 2 * kPageSize);
  REQUIRE(pool->unmap(home));
  CHECK(pool->map(home, ContentId{7}) == home);
}

TEST_CASE("a home that goes leaves its spare to those who map it") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  for (int i = 0; i < Pool::kMappingsMax; ++i) REQUIRE(pool->map(home, ContentId{7}));
  const PoolSlot spare = run_of(*pool, 1).front();
  REQUIRE(pool->settle_spare(spare, home, ContentId{7}) == Pool::Spare::settled);
  for (int i = 0; i < Pool::kMappingsMax; ++i) REQUIRE(pool->unmap(home));
  CHECK(pool->is_mapped(home));
  REQUIRE(pool->retire(home, ContentId{7}));
  pool->punch_retired();
  CHECK(pool->allocated().value == 2 * kPageSize);
  REQUIRE(pool->unmap(spare));
  pool->punch_retired();
  CHECK(pool->allocated().value == kPageSize);
}

TEST_CASE("D10: after a restart nothing is given out or punched before the mappings are known") {
  auto first = make();
  const PoolSlot named = home_of(*first, 7);
  const PoolSlot mapped = home_of(*first, 8);
  const PoolSlot nobodys = home_of(*first, 9);
  const std::uint64_t before = blocks_of(*first);
  auto pool = must(Pool::adopt(must(first->file().duplicate()), kIdentity, kSize));
  REQUIRE(pool->claim(named, ContentId{7}));
  CHECK_FALSE(pool->claim(named, ContentId{12}));
  std::array<PoolSlot, 1> none{};
  const Status refused = pool->allocate_run(none);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == EAGAIN);
  pool->punch_retired();
  CHECK(blocks_of(*pool) == before);
  CHECK(pool->is_mapped(named));  // for all that is known
  REQUIRE(pool->note_mapping(mapped));
  CHECK_FALSE(pool->note_mapping(PoolSlot{0}));
  CHECK_FALSE(pool->note_mapping(PoolSlot{1u << 20}));
  must(pool->mappings_known());
  CHECK_FALSE(pool->note_mapping(named));
  CHECK_FALSE(pool->is_mapped(named));
  pool->punch_retired();
  CHECK(blocks_of(*pool) == before - kPageSize);
  CHECK(pool->data(named)[0] == std::byte{0x5a});
  CHECK(pool->data(mapped)[0] == std::byte{0x5a});
  std::byte byte{1};  // a read through the mapping would put a page there
  REQUIRE(::pread(pool->file().get(), &byte, 1, std::int64_t{nobodys.value} * 4096) == 1);
  CHECK(byte == std::byte{0});
  REQUIRE(pool->unmap(mapped));
  pool->punch_retired();
  CHECK(blocks_of(*pool) == before - 2 * kPageSize);
}

TEST_CASE("a mapping that ends before a header claims its slot does not free the slot") {
  auto first = make();
  const PoolSlot slot = home_of(*first, 7);
  auto pool = must(Pool::adopt(must(first->file().duplicate()), kIdentity, kSize));
  REQUIRE(pool->note_mapping(slot));
  REQUIRE(pool->unmap(slot));
  REQUIRE(pool->claim(slot, ContentId{7}));
  must(pool->mappings_known());
  pool->punch_retired();
  CHECK(pool->data(slot)[0] == std::byte{0x5a});
  CHECK(pool->map(slot, ContentId{7}) == slot);
}

TEST_CASE("a hole that a page maps is given to nobody") {
  auto first = make();
  auto pool = must(Pool::adopt(must(first->file().duplicate()), kIdentity, kSize));
  REQUIRE(pool->note_mapping(PoolSlot{1}));
  must(pool->mappings_known());
  CHECK(run_of(*pool, 1).front() != PoolSlot{1});
  REQUIRE(pool->unmap(PoolSlot{1}));
  pool->punch_retired();
  CHECK(pool->allocated().value == 2 * kPageSize);
}

TEST_CASE("what is not the pool of its group, or could be written to, is not adopted") {
  auto first = make();
  const auto copy = [&] { return must(first->file().duplicate()); };
  CHECK(Pool::adopt(copy(), kIdentity, kSize));
  CHECK_FALSE(Pool::adopt(copy(), {GroupId{4}, 0x1111, 0x2222}, kSize));
  CHECK_FALSE(Pool::adopt(copy(), {GroupId{3}, 0x1112, 0x2222}, kSize));
  CHECK_FALSE(Pool::adopt(copy(), {GroupId{3}, 0x1111, 0x2223}, kSize));
  CHECK_FALSE(Pool::adopt(copy(), kIdentity, ByteCount{8u << 20}));
  REQUIRE(::fchmod(first->file().get(), 0644) == 0);
  CHECK_FALSE(Pool::adopt(copy(), kIdentity, kSize));
  auto loose = must(sys::make_memfd("loose", kSize, sys::Sealed::no));
  CHECK_FALSE(Pool::adopt(std::move(loose), kIdentity, kSize));
}

TEST_CASE("a slot that is not taken is neither settled nor given back, and keeps its page") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  REQUIRE(pool->map(home, ContentId{7}) == home);
  for (const PoolSlot slot : {home, PoolSlot{0}, PoolSlot{500}, PoolSlot{1u << 20}}) {
    CHECK_FALSE(pool->settle(slot, ContentId{8}));
    CHECK_FALSE(pool->give_back(slot));
    CHECK(pool->settle_spare(slot, home, ContentId{7}) == Pool::Spare::not_taken);
  }
  const PoolSlot other = run_of(*pool, 1).front();
  CHECK(pool->give_back(other));
  CHECK_FALSE(pool->give_back(other));
  CHECK(pool->punch_retired());
  CHECK(pool->allocated().value == 2 * kPageSize);
  CHECK(pool->data(home)[0] == std::byte{0x5a});
  CHECK(pool->map(home, ContentId{7}) == home);
  CHECK(pool->mappings() == 2);
}

TEST_CASE("a slot that stands by mistake in the list of slots to punch keeps its page") {
  auto pool = make();
  const PoolSlot home = home_of(*pool, 7);
  REQUIRE(pool->retire(home, ContentId{7}));
  REQUIRE(pool->claim(home, ContentId{8}));  // as only a restart does
  const PoolSlot retired = home_of(*pool, 9);
  REQUIRE(pool->retire(retired, ContentId{9}));
  CHECK_FALSE(pool->punch_retired());
  CHECK(pool->allocated().value == 2 * kPageSize);  // the other one was punched
  CHECK(pool->data(home)[0] == std::byte{0x5a});
  CHECK(pool->map(home, ContentId{8}) == home);
  CHECK(pool->punch_retired());
}

TEST_CASE("more slots than one run has are refused") {
  auto pool = make();
  std::vector<PoolSlot> slots(Pool::kRunMax + 1);
  const Status refused = pool->allocate_run(slots);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == E2BIG);
  CHECK(pool->allocated().value == kPageSize);
}
