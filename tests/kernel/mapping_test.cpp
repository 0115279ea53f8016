// SPDX-License-Identifier: GPL-2.0-or-later
// Pages that map the pool: the agent's acts and the daemon's halves, step by step, on real memory.
#include "kernel/mapping_rig.hpp"

#include <sys/prctl.h>

#include <csignal>
#include <string>
#include <thread>

#include "fold/mapper.hpp"
#include "fold/written.hpp"
#include "scan/forget.hpp"
#include "sys/procfs.hpp"

using namespace ramfold;
using namespace ramfold::test;

namespace {

constexpr guest::PageMask kAll = 0xffff;

void fill(MappingRig& rig, std::uint64_t first, unsigned content) {
  for (unsigned i = 0; i < 16; ++i) rig.fill(first + i, content + i);
}

// Waits in a fault until the page may be written.
struct Writer {
  Writer(MappingRig& rig, std::uint64_t page)
      : thread([this, at = rig.at(page)] {
          *at = 77;
          done = true;
        }) {}
  ~Writer() { thread.join(); }
  std::atomic<bool> done{false};
  std::thread thread;
};

}  // namespace

TEST_CASE("pages map the pool, are copied when they are written, and go back whole") {
  MappingRig& rig = MappingRig::get();
  constexpr std::uint64_t kFirst = 128;  // with RAM on either side
  const unsigned mappings = rig.mappings();
  fill(rig, kFirst, 100);
  REQUIRE(rig.share(kFirst, 100) == kAll);
  for (unsigned i = 0; i < 16; ++i) {
    CHECK(rig.tag(kFirst + i) == Tag::mapped);
    CHECK(rig.maps_pool(kFirst + i));
    CHECK_FALSE(rig.in_ram_file(kFirst + i));  // the guest has it, the RAM file does not
    CHECK(*rig.at(kFirst + i) == static_cast<char>(100 + i));
  }
  CHECK(rig.mappings() == mappings + 2);  // neighbours with neighbouring slots are one
  CHECK(rig.pool.taken() == 16);
  *rig.at(kFirst + 3) = 55;  // no event, nobody is asked
  CHECK(*rig.at(kFirst + 3) == 55);
  PageCopy slot;
  REQUIRE(rig.pool.read(ByteCount{103 * kPageSize}, slot.bytes.data()));
  CHECK(slot.bytes[0] == std::byte{103});
  CHECK(rig.share(kFirst, 100) == 0);  // they are mapped already

  REQUIRE(rig.restore(kFirst) == kAll);
  for (unsigned i = 0; i < 16; ++i) {
    CHECK(rig.tag(kFirst + i) == Tag::none);
    CHECK_FALSE(rig.maps_pool(kFirst + i));
    CHECK(rig.in_ram_file(kFirst + i));
    CHECK(*rig.at(kFirst + i) == (i == 3 ? 55 : static_cast<char>(100 + i)));
  }
  CHECK(rig.pool.taken() == 0);
  CHECK(rig.mappings() == mappings);  // the advice is what it was
  CHECK(rig.restore(kFirst) == 0);
}

TEST_CASE("the number of mappings returns to its start after many cycles (T4)") {
  MappingRig& rig = MappingRig::get();
  const unsigned mappings = rig.mappings();
  fill(rig, 16, 200);
  for (unsigned n = 0; n < 300; ++n) {
    for (unsigned i = 0; i < 16; ++i) REQUIRE(*rig.at(16 + i) == static_cast<char>(200 + i));
    REQUIRE(rig.share(16 + n % 7, 200 + n % 7, 9) == 0x1ff);
    REQUIRE(rig.restore(16 + n % 7, 9) == 0x1ff);
  }
  CHECK(rig.mappings() == mappings);
}

TEST_CASE("pages that differ, are held, or find no slot stay as they are") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 32, 300);
  *rig.at(35) = 1;  // not what is believed
  rig.proof.held = PageIndex{33};
  CHECK(rig.share(32, 300) == (kAll & ~(1 << 3 | 2)));
  rig.proof.held = PageIndex{~std::uint64_t{0}};
  CHECK(rig.tag(33) == Tag::none);
  CHECK(rig.tag(35) == Tag::none);
  *rig.at(33) = 2;  // not guarded any more
  *rig.at(35) = 2;
  CHECK(rig.pool.taken() == 14);
  rig.proof.held = PageIndex{34};  // a device writes to a private copy
  CHECK(rig.restore(32) == (kAll & ~(1 << 3 | 2 | 4)));
  rig.proof.held = PageIndex{~std::uint64_t{0}};
  CHECK(rig.tag(34) == Tag::mapped);
  *rig.at(34) = 3;
  CHECK(rig.restore(32) == 4);
  CHECK(*rig.at(34) == 3);
  fill(rig, 32, 300);
  rig.pool.none_left = true;
  CHECK(rig.share(32, 300) == 0);
  rig.pool.none_left = false;
  rig.port.closed = true;
  CHECK(rig.share(32, 300) == 0);
  rig.port.closed = false;
  CHECK(rig.pool.taken() == 0);
  *rig.at(32) = 3;
  rig.vm->gate().close();
  CHECK(rig.share(32, 300) == 0);
  (void)rig.vm->gate().open(0, rig.vm->gate().epoch());
}

TEST_CASE("a call of the agent's that fails leaves every page with its bytes") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 192, 950);
  rig.port.limited = RLIMIT_DATA;  // private mappings that may be written
  rig.port.fails = true;
  CHECK(rig.share(192, 950) == 0);
  rig.port.fails = false;
  CHECK(rig.port.last.status == RF_ANSWER_FAILED);
  CHECK(rig.port.last.error == ENOMEM);
  CHECK(rig.pool.taken() == 0);
  CHECK(rig.tag(192) == Tag::none);
  CHECK(*rig.at(192) == static_cast<char>(950 & 255));

  REQUIRE(rig.share(192, 950) == kAll);
  *rig.at(195) = 7;
  rig.port.limited = RLIMIT_AS;  // every mapping
  rig.port.fails = true;
  CHECK(rig.restore(192) == 0);
  rig.port.fails = false;
  CHECK(rig.port.last.error == ENOMEM);
  for (unsigned i = 0; i < 16; ++i) {
    CHECK(rig.maps_pool(192 + i));
    CHECK(rig.tag(192 + i) == Tag::mapped);
    CHECK_FALSE(rig.in_ram_file(192 + i));
    CHECK(*rig.at(192 + i) == (i == 3 ? 7 : static_cast<char>(950 + i)));
  }
  CHECK(rig.pool.taken() == 16);
  *rig.at(196) = 8;  // not guarded any more
  REQUIRE(rig.restore(192) == kAll);
  CHECK(*rig.at(195) == 7);
  CHECK(*rig.at(196) == 8);
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D10: without an answer pages stay owned and guarded until a fence tells") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 48, 400);
  const auto contents = MappingRig::contents(400);
  fold::SharingRun run(*rig.vm, rig.vmas, rig.proof, rig.pool, MappingRig::window(48), contents);
  REQUIRE(run.equal() == kAll);
  rig.port.loses = true;
  REQUIRE(run.map(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  // Asked once more, nothing is sent once more, and the answer stays lost.
  const unsigned sent = rig.port.runs_sent;
  CHECK(run.map(rig.port, 1s) == Settled::no);
  CHECK(run.look_for_answer(rig.port, 1s) == fold::WaitsFor::fence);
  CHECK(rig.port.runs_sent == sent);
  CHECK(rig.tag(48) == Tag::mapped);
  CHECK(rig.vm->table().owner(PageIndex{48}) == guest::Owner::mapping);
  Writer writer(rig, 50);
  ::usleep(20'000);
  CHECK_FALSE(writer.done);  // else the late command would lose this write
  SECTION("the command ran before the fence") {
    rig.port.carry_out(rig.port.left);
    REQUIRE(run.settle() == Settled::yes);
    CHECK(run.mapped() == kAll);
    CHECK(rig.pool.taken() == 16);
  }
  SECTION("it was dropped") {
    REQUIRE(run.settle() == Settled::yes);
    CHECK(run.mapped() == 0);
    CHECK(rig.tag(48) == Tag::none);
    CHECK(rig.pool.taken() == 0);
  }
  CHECK(soon([&] { return writer.done.load(); }));
  CHECK(*rig.at(50) == 77);
  CHECK(*rig.at(49) == static_cast<char>(401 & 255));
  (void)rig.restore(48);
  CHECK(*rig.at(50) == 77);
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D10: a slot is not given back before the kernel says that nothing maps it") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 64, 500);
  REQUIRE(rig.share(64, 500) == kAll);
  fold::RestoringRun run(*rig.vm, rig.vmas, rig.proof, rig.pool, MappingRig::window(64));
  rig.port.loses = true;
  REQUIRE(run.restore(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  CHECK(rig.pool.taken() == 16);
  CHECK(*rig.at(64) == static_cast<char>(500 & 255));
  SECTION("the command ran") {
    rig.port.carry_out(rig.port.left);
    REQUIRE(run.settle() == Settled::yes);
    CHECK(run.restored() == kAll);
  }
  SECTION("it was dropped: the pages stay mapped, and may be written") {
    REQUIRE(run.settle() == Settled::yes);
    CHECK(run.restored() == 0);
    CHECK(rig.pool.taken() == 16);
    *rig.at(65) = 9;
    CHECK(rig.restore(64) == kAll);
    CHECK(*rig.at(65) == 9);
  }
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D6: a discard drops the mapping, and beside one nothing is mapped") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 80, 600);
  REQUIRE(rig.share(80, 600) == kAll);
  *rig.at(82) = 9;
  REQUIRE(rig.discard(81, 3) == 0);
  for (const unsigned p : {81u, 82u, 83u}) {
    CHECK_FALSE(rig.maps_pool(p));
    CHECK_FALSE(rig.in_ram_file(p));
    CHECK(*rig.at(p) == 0);
  }
  CHECK(rig.maps_pool(80));
  CHECK(rig.maps_pool(84));
  *rig.at(82) = 5;  // before the daemon knows
  CHECK(rig.restore(80) == kAll);
  CHECK(*rig.at(80) == static_cast<char>(600 & 255));
  CHECK(*rig.at(82) == 5);
  CHECK(*rig.at(83) == 0);
  CHECK(rig.pool.taken() == 0);

  // A discard that has set its bits: the agent refuses, whatever the daemon has seen.
  fill(rig, 80, 600);
  {
    const auto contents = MappingRig::contents(600);
    fold::SharingRun run(*rig.vm, rig.vmas, rig.proof, rig.pool, MappingRig::window(80), contents);
    REQUIRE(run.equal() == kAll);
    REQUIRE(rig.discard(81, 1) == 0);
    REQUIRE(run.map(rig.port, 1s) == Settled::yes);
    CHECK(run.mapped() == 0);
    CHECK(rig.port.last.error == EAGAIN);
  }
  CHECK(*rig.at(81) == 0);
  CHECK(*rig.at(80) == static_cast<char>(600 & 255));
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("QEMU's advice and the daemon's forget lose no private copy") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 96, 700);
  REQUIRE(rig.share(96, 700) == kAll);
  *rig.at(97) = 9;
  REQUIRE(rf_mapping_dontneed(const_cast<char*>(rig.at(90)), 10 * kPageSize) == 0);
  CHECK(*rig.at(97) == 9);
  const std::array runs{MappingRig::window(96, 2)};
  (void)rig.port.send(guest::AgentAct::forget, runs);
  CHECK(rig.port.last.status == RF_ANSWER_FAILED);
  CHECK(rig.port.last.error == EBUSY);
  CHECK(*rig.at(97) == 9);
  // Mapping again would lose it too.
  const std::array slots{ByteCount{700 * kPageSize}};
  (void)rig.port.send(guest::AgentAct::map, runs, slots);
  CHECK(rig.port.last.error == EBUSY);
  CHECK(*rig.at(97) == 9);
  REQUIRE(rig.restore(96) == kAll);
  CHECK(*rig.at(97) == 9);
}

TEST_CASE("D9: KSM may merge no copy of a pool's page, also where a process has all merged") {
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67  // since Linux 6.4
#endif
  MappingRig& rig = MappingRig::get();
  if (::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0) {
    WARN("the kernel has no KSM");
    return;
  }
  const auto merged = [](std::uint64_t from, std::uint64_t to) {
    unsigned n = 0;
    (void)sys::Procfs().smaps(::getpid(), [&](const sys::MapEntry& entry, std::string_view flags) {
      if (entry.begin.value < to && from < entry.end.value)
        n += (" " + std::string(flags) + " ").find(" mg ") != std::string::npos ? 1 : 0;
      return true;
    });
    return n;
  };
  const auto other = sys::Mapping::private_of(
      *sys::make_memfd("x", ByteCount{kPageSize}, sys::Sealed::no), ByteCount{kPageSize});
  const auto at = reinterpret_cast<std::uint64_t>(other->data());
  CHECK(merged(at, at + 1) == 1);  // or this test could not tell

  constexpr std::uint64_t kFirst = 512;
  const std::uint64_t begin = rig.base() + kFirst * kPageSize;
  const std::uint64_t end = begin + 48 * kPageSize;
  for (const unsigned i : {0u, 16u, 32u}) fill(rig, kFirst + i, 900 + i);
  for (const unsigned i : {0u, 16u, 32u}) REQUIRE(rig.share(kFirst + i, 900 + i) == kAll);
  CHECK(merged(begin, end) == 0);  // as one mapping
  REQUIRE(rig.restore(kFirst + 16) == kAll);
  CHECK(merged(begin, end) == 0);  // in parts
  fill(rig, kFirst + 16, 916);
  REQUIRE(rig.share(kFirst + 16, 916) == kAll);
  CHECK(merged(begin, end) == 0);
  REQUIRE(::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) == 0);
  for (const unsigned i : {0u, 16u, 32u}) REQUIRE(rig.restore(kFirst + i) == kAll);
}

TEST_CASE("D11: written pages are those with a copy of their own") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 160, 800);
  REQUIRE(rig.share(160, 800) == kAll);
  const auto written = [&] {
    const auto mask = fold::written_pages(*rig.vm, MappingRig::window(160), kAll);
    REQUIRE(mask.has_value());
    return *mask;
  };
  CHECK(written() == 0);
  for (unsigned i = 0; i < 8; ++i) REQUIRE(*rig.at(160 + i) == static_cast<char>(800 + i));
  CHECK(written() == 0);
  *rig.at(161) = 1;
  *rig.at(165) = 1;
  *rig.at(175) = 1;  // and not read before
  CHECK(written() == (1 << 1 | 1 << 5 | 1 << 15));
  const auto too_many = fold::written_pages(*rig.vm, MappingRig::window(160, 65), kAll);
  REQUIRE_FALSE(too_many.has_value());
  CHECK(too_many.error().code == EINVAL);
  REQUIRE(rig.restore(160) == kAll);
}

// Run by storm/with_swap.py, with a zram device to swap to.
TEST_CASE("D11: written pages in swap are found, and go back whole", "[.][swap]") {
  MappingRig& rig = MappingRig::get();
  fill(rig, 176, 900);
  REQUIRE(rig.share(176, 900) == kAll);
  for (unsigned i = 0; i < 16; ++i) REQUIRE(*rig.at(176 + i) == static_cast<char>(900 + i));
  for (const unsigned i : {1u, 5u, 15u}) *rig.at(176 + i) = static_cast<char>(i);
  const auto swapped = [&] {
    std::array<sys::PageRegion, 16> regions;
    HostVirt walked{};
    const auto n = rig.vm->pagemap().scan(rig.vm->range_of(MappingRig::window(176)),
                                          sys::kPageSwapped, sys::kPageSwapped, regions, walked);
    REQUIRE(n.has_value());
    return *n;
  };
  REQUIRE(soon([&] {
    (void)::madvise(const_cast<char*>(rig.at(176)), 16 * kPageSize, MADV_PAGEOUT);
    return swapped() == 3;
  }));
  const auto mask = fold::written_pages(*rig.vm, MappingRig::window(176), kAll);
  REQUIRE(mask.has_value());
  CHECK(*mask == (1 << 1 | 1 << 5 | 1 << 15));
  REQUIRE(swapped() == 3);  // looking brought nothing back
  REQUIRE(rig.restore(176) == kAll);
  for (const unsigned i : {1u, 5u, 15u}) CHECK(*rig.at(176 + i) == static_cast<char>(i));
  CHECK(*rig.at(178) == static_cast<char>(902 & 255));
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("a command to map is refused where the pool does not have all of it") {
  MappingRig& rig = MappingRig::get();
  const std::array runs{MappingRig::window(112, 2)};
  const auto refused = [&](std::uint64_t offset) {
    const std::array slots{ByteCount{offset}};
    (void)rig.port.send(guest::AgentAct::map, runs, slots);
    CHECK_FALSE(rig.maps_pool(112));
    return rig.port.last.status == RF_ANSWER_REFUSED ? static_cast<int>(rig.port.last.error) : 0;
  };
  CHECK(refused((TestPool::kSlots - 1) * kPageSize) == EINVAL);
  CHECK(refused(TestPool::kSlots * kPageSize) == EINVAL);
  CHECK(refused(~std::uint64_t{4095}) == EINVAL);
  CHECK(refused(1) == EINVAL);
  REQUIRE_FALSE(rf_mapping_pool(-1));
  CHECK(refused(0) == EBADF);
  REQUIRE(rf_mapping_pool(rig.pool.read_only()));
}

TEST_CASE("only a read-only, sealed file of tmpfs that nobody may write is a pool") {
  MappingRig& rig = MappingRig::get();
  const auto make = [](int seals, mode_t mode, int how) {
    const sys::Fd file(::memfd_create("pool", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(file.get(), kPageSize) == 0);
    REQUIRE(::fchmod(file.get(), mode) == 0);
    REQUIRE(::fcntl(file.get(), F_ADD_SEALS, seals) == 0);
    const std::string path = "/proc/self/fd/" + std::to_string(file.get());
    const int fd = ::open(path.c_str(), how | O_CLOEXEC);
    REQUIRE(fd >= 0);
    return fd;
  };
  CHECK(rf_mapping_pool(make(F_SEAL_SHRINK, 0444, O_RDONLY)));
  CHECK_FALSE(rf_mapping_pool(make(F_SEAL_GROW, 0444, O_RDONLY)));
  CHECK_FALSE(rf_mapping_pool(make(F_SEAL_SHRINK, 0644, O_RDONLY)));
  CHECK_FALSE(rf_mapping_pool(make(F_SEAL_SHRINK, 0444, O_RDWR)));
  CHECK_FALSE(rf_mapping_pool(make(F_SEAL_SHRINK, 0444, O_PATH)));
  CHECK_FALSE(rf_mapping_pool(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)));
  CHECK_FALSE(rf_mapping_pool(::dup(rig.ram())));
  CHECK(rf_mapping_pool(rig.pool.read_only()));
}

TEST_CASE("nothing is mapped into a QEMU of root, nor before Linux 6.12") {
  const auto why = [](std::array<unsigned, 3> ids, const char* release) {
    const char* text = rf_mapping_obstacle(ids.data(), release);
    return std::string(text == nullptr ? "" : text);
  };
  CHECK(why({107, 107, 107}, "6.12.0") == "");
  CHECK(why({107, 107, 107}, "7.0-rc1") == "");
  CHECK(why({107, 107, 107}, "6.18.44-fc") == "");
  CHECK(why({107, 107, 107}, "6.11.9") == "this needs Linux 6.12");
  CHECK(why({107, 107, 107}, "5.15") == "this needs Linux 6.12");
  CHECK(why({107, 107, 107}, "") == "this needs Linux 6.12");
  CHECK(why({0, 0, 0}, "6.12") == "QEMU runs as root");
  CHECK(why({0, 107, 107}, "6.12") == "QEMU runs as root");
  CHECK(why({107, 0, 107}, "6.12") == "QEMU runs as root");
  CHECK(why({107, 107, 0}, "6.12") == "QEMU runs as root");
}

TEST_CASE("no window in which a page maps the pool is forgotten, and its neighbours are") {
  MappingRig& rig = MappingRig::get();
  constexpr std::uint64_t kFirst = 2048;
  constexpr std::uint64_t kMapped = kFirst + 16 + 5;
  std::array<scan::SeenPage, 32> seen;
  for (std::uint64_t i = 0; i < seen.size(); ++i) {
    const PageIndex p{kFirst + i};
    seen[i] = {p, true, false};
    REQUIRE(soon([&] { return rig.vm->table().take_for_fold(p); }));
    REQUIRE(rig.vm->table().commit(p));
    const guest::Word word = rig.vm->table().load(p).value();
    const guest::Word next = word.becomes(Tag::observed, 1u, 3, 0);
    REQUIRE(rig.vm->advance(p, word, next, guest::Owner::punching));
    rig.vm->release(p);
  }
  const auto windows = [&] {
    const scan::Question question = scan::choose(*rig.vm, seen, scan::Sampling{});
    std::uint64_t pages = 0;
    for (std::size_t i = 0; i < question.count; ++i) pages += question.runs[i].count.value;
    return std::pair(pages, question.candidates);
  };
  CHECK(windows().second == 32);
  rig.fill(kMapped, 1300);
  REQUIRE(rig.share(kMapped, 1300, 1) == 1);
  CHECK(windows().second == 16);
  REQUIRE(rig.restore(kMapped, 1) == 1);
}

TEST_CASE("T4: a clean page is mapped, or keeps its guard") {
  MappingRig& rig = MappingRig::get();
  constexpr std::uint64_t kPage = 2112;
  const PageIndex p{kPage};
  guest::PageTable& table = rig.vm->table();
  const sys::UffdRange range = rig.vm->range_of({p, PageCount{1}});
  const auto is_guarded = [&] {
    std::array<sys::PageRegion, 1> regions;
    HostVirt walked{};
    const auto n =
        rig.vm->pagemap().scan(range, 0, sys::kPagePresent | sys::kPageWritten, regions, walked);
    return n && *n == 1 && (regions[0].categories & sys::kPageWritten) == 0;
  };
  rig.fill(kPage, 1310);
  REQUIRE(soon([&] { return table.take_for_fold(p); }));
  REQUIRE(table.commit(p));
  const guest::Word none = table.load(p).value();
  const guest::Word folded = none.becomes(Tag::folded, ContentId{1310}, 0, 0);
  REQUIRE(rig.vm->advance(p, none, folded, guest::Owner::punching));
  rig.vm->release(p);
  REQUIRE(table.take_for_fill(p) == guest::Taken::owned);
  const guest::Word clean = folded.becomes(Tag::clean, ContentId{1310}, 0, 0);
  REQUIRE(rig.vm->advance(p, folded, clean, guest::Owner::filling));
  REQUIRE(rig.vm->uffd().guard(range).outcome == sys::Outcome::done);
  rig.vm->release(p);

  CHECK(rig.share(kPage, 1311, 1) == 0);  // its word names another content
  CHECK(rig.tag(kPage) == Tag::clean);
  CHECK(is_guarded());
  rig.pool.none_left = true;
  CHECK(rig.share(kPage, 1310, 1) == 0);
  CHECK(is_guarded());
  rig.pool.none_left = false;
  rig.proof.held = p;
  CHECK(rig.share(kPage, 1310, 1) == 0);
  CHECK(rig.tag(kPage) == Tag::clean);
  CHECK(is_guarded());
  rig.proof.held = PageIndex{~std::uint64_t{0}};
  CHECK(rig.share(kPage, 1310, 1) == 1);
  CHECK(rig.maps_pool(kPage));
  REQUIRE(rig.restore(kPage, 1) == 1);
}

TEST_CASE("a run that is not settled is asked for nothing more, and nor is its VM") {
  MappingRig& rig = MappingRig::get();
  constexpr std::uint64_t kFirst = 2048;
  fill(rig, kFirst, 600);
  REQUIRE(rig.share(kFirst, 600) == kAll);
  rig.port.loses = true;
  {
    fold::RestoringRun run(*rig.vm, rig.vmas, rig.proof, rig.pool, MappingRig::window(kFirst));
    REQUIRE(run.restore(rig.port, 1s) == Settled::no);
    const unsigned sent = rig.port.runs_sent;
    CHECK(run.restore(rig.port, 1s) == Settled::no);
    CHECK(rig.port.runs_sent == sent);
    REQUIRE(run.settle() == Settled::yes);
    CHECK(run.restored() == 0);
  }
  auto store = store::Contents::create(ByteCount{64u << 20});
  REQUIRE(store.has_value());
  const auto group = (*store)->group("a");
  REQUIRE(group.has_value());
  fold::VmPool pool(**store, *group, MappingRig::kPages);
  REQUIRE(pool.open(sys::Fd(rig.pool.read_only())).has_value());
  fold::Mapper mapper(*rig.vm, **store, *group, pool);
  const auto first = std::make_shared<CorePort>();
  first->loses = true;
  CHECK(mapper.restore(MappingRig::window(kFirst), first, rig.proof) == 0);
  REQUIRE_FALSE(mapper.settled());
  CHECK(mapper.restore(MappingRig::window(kFirst), first, rig.proof) == 0);
  CHECK(mapper.share(MappingRig::window(kFirst + 16), kAll, first, rig.proof) == 0);
  CHECK(first->runs_sent == 1);
  CHECK(mapper.settle(std::make_shared<CorePort>()));
  rig.port.loses = false;
  REQUIRE(rig.restore(kFirst) == kAll);
  CHECK(rig.pool.taken() == 0);
}
