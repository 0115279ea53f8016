// SPDX-License-Identifier: GPL-2.0-or-later
// A daemon that begins, and pages that map the pool: which of them do, what an earlier daemon left
// in the middle, and that no slot is freed that a page maps.
#include "daemon/custody/mapping_recovery.hpp"

#include <sys/mman.h>

#include <array>

#include "guest/ram_mapping.hpp"
#include "kernel/custody_rig.hpp"

using namespace ramfold;
using namespace ramfold::test;
using store::PoolSlot;

TEST_CASE("a restart finds every page that maps the pool, and frees no slot before") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(0, 1);
  rig.share_twice(64, 33);
  *rig.at(3) = 77;  // its own copy now
  rig.compare_with_kernel();
  const auto slot = rig.kernel_slot(5);

  rig.restart();
  CHECK_FALSE(rig.vm().mappings_known());
  // Also when nothing names a content any more, its slot stays while it may be mapped.
  REQUIRE(rig.contents->finish_recovery().has_value());
  for (int i = 0; i < 4; ++i) rig.contents->trim();
  CHECK(*rig.at(5) == 6);
  std::array<Result<PoolSlot>, 1> none{PoolSlot{}};
  const std::array<ContentId, 1> one{rig.vm().table().load(PageIndex{5}).value().content()};
  rig.contents->share_run(rig.attached->group, one, none);
  CHECK(none[0].error().code == EAGAIN);

  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 64);
  CHECK(found->left == 0);
  CHECK(found->damaged + found->strange + found->unnamed == 0);
  CHECK(rig.vm().mappings_known());
  CHECK(rig.pool().slot_of(PageIndex{5}) == slot);
  rig.compare_with_kernel();
  REQUIRE(rig.contents->mappings_known(rig.attached->group).has_value());
  rig.contents->trim();
  for (unsigned i = 0; i < 32; ++i) {
    CHECK(*rig.at(i) == (i == 3 ? 77 : static_cast<char>(1 + i % 16)));
    CHECK(*rig.at(64 + i) == static_cast<char>(33 + i % 16));
  }
  rig.clear();
  CHECK(*rig.at(3) == 77);
  CHECK(*rig.at(5) == 6);
}

TEST_CASE("a look between a restart and the search does not take the pool for something else") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(0, 1);
  rig.restart();
  REQUIRE_FALSE(rig.vm().mappings_known());
  const rf_block& offered = rig.vm().record().block[0];
  const std::array ram{guest::RamBlock{{static_cast<dev_t>(offered.device), offered.inode},
                                       HostVirt{offered.address},
                                       ByteCount{offered.size},
                                       ByteCount{offered.offset}}};
  const sys::Procfs procfs;
  CHECK_FALSE(guest::look_at_ram(procfs, ::getpid(), ram).exact);
  REQUIRE(daemon::open_known_pool(*rig.attached, *rig.contents).has_value());
  REQUIRE(rig.pool().is_open());
  CHECK(guest::look_at_ram(procfs, ::getpid(), ram, rig.pool().file()).exact);
  REQUIRE(rig.recover().has_value());
  rig.finish();
  rig.clear();
}

TEST_CASE("a page that was about to map the pool is the guest's own again") {
  CustodyRig& rig = CustodyRig::get();
  rig.fill_twice(128, 1);
  for (unsigned i = 0; i < 16; ++i) (void)rig.put(144 + i);
  auto run = rig.sharing(128);
  rig.port.loses = true;  // the daemon is killed before the agent gets to the command
  REQUIRE(run->map(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  CHECK(rig.tag(130) == Tag::mapped);
  rig.abandon(std::move(run));
  rig.restart();
  {
    Writer writer(rig, 130, 99);
    // Its event was served by nobody: the command could still map the page.
    CHECK(writer.waits());
    CHECK(rig.tag(130) == Tag::mapped);
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK(found->mapped == 0);
    CHECK(found->left == 16);
    CHECK(found->strange == 0);
  }
  CHECK(*rig.at(130) == 99);
  CHECK(rig.tag(130) == Tag::none);
  rig.finish();
  rig.clear();
}

TEST_CASE("a page whose mapping came after its daemon's death stays mapped") {
  CustodyRig& rig = CustodyRig::get();
  rig.fill_twice(160, 1);
  for (unsigned i = 0; i < 16; ++i) (void)rig.put(176 + i);
  auto run = rig.sharing(160);
  rig.port.loses = true;
  REQUIRE(run->map(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  rig.abandon(std::move(run));
  rig.restart();
  rig.port.carry_out(rig.port.left);  // it had begun; the fence comes after it
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 16);
  CHECK(found->left == 0);
  rig.finish();
  rig.compare_with_kernel();
  for (unsigned i = 0; i < 16; ++i) CHECK(*rig.at(160 + i) == static_cast<char>(1 + i));
  rig.clear();
}

TEST_CASE("a page that was being put back loses no write, on either side of the agent") {
  CustodyRig& rig = CustodyRig::get();
  bool ran = false;
  SECTION("the agent never ran the command") { ran = false; }
  SECTION("the agent ran the command after the death") { ran = true; }
  rig.share_twice(192, 1);
  *rig.at(194) = 55;
  auto run = std::make_unique<fold::RestoringRun>(rig.vm(), rig.vmas, rig.proof, rig.pool(),
                                                  CustodyRig::window(192));
  rig.port.loses = true;
  REQUIRE(run->restore(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  rig.abandon(std::move(run));
  rig.restart();
  {
    Writer writer(rig, 195, 99);
    CHECK(writer.waits());  // at the guard of the run that was cut off
    if (ran) rig.port.carry_out(rig.port.left);
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK(found->mapped == (ran ? 16u : 32u));
    CHECK(found->left == (ran ? 16u : 0u));
  }
  rig.finish();
  rig.compare_with_kernel();
  for (unsigned i = 0; i < 32; ++i)
    CHECK(*rig.at(192 + i) == (i == 2 ? 55 : i == 3 ? 99 : static_cast<char>(1 + i % 16)));
  if (ran) {
    // It is registered again: a guard holds there.
    CHECK(rig.in_ram_file(195));
    CHECK(rig.vm().uffd().guard(rig.vm().range_of(CustodyRig::window(192))).outcome ==
          sys::Outcome::done);
    *rig.at(196) = 1;
  }
  rig.clear();
}

TEST_CASE("QEMU discards mapped pages while no daemon knows of them") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(256, 1);
  rig.restart();
  REQUIRE(rig.discard(258, 2) == 0);
  CHECK(*rig.at(258) == 0);
  *rig.at(259) = 7;
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 30);
  CHECK(found->left == 2);
  CHECK(*rig.at(258) == 0);
  CHECK(*rig.at(259) == 7);
  rig.finish();
  rig.compare_with_kernel();
  rig.clear();
}

TEST_CASE(
    "a page that maps the pool and whose word does not say so keeps its slot, and the VM's"
    " mappings stay unknown") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(320, 1);
  // As if a word had been damaged, and repaired since.
  std::array<char, 8> zero{};
  REQUIRE(::pwrite(rig.vm().files().words.get(), zero.data(), 8, 321 * 8) == 8);
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->unnamed == 1);
  CHECK(found->mapped == 31);
  CHECK_FALSE(rig.vm().mappings_known());
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  CHECK(*rig.at(321) == 2);
  // For the cases after this one: the page goes back as a discard of QEMU's.
  REQUIRE(rig.discard(321, 1) == 0);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
}

TEST_CASE("T2: while the pool cannot be opened its pages keep their words, and stay unknown") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(512, 1);
  *rig.at(514) = 66;
  rig.restart(CustodyRig::Pools::lost);
  for (int i = 0; i < 2; ++i) {
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK_FALSE(rig.pool().is_open());
    CHECK(found->strange == 32);
    CHECK(found->left + found->unnamed == 0);
    // Or an unfold would go on, and whoever reads the RAM file would read zeros there.
    CHECK_FALSE(rig.vm().mappings_known());
    CHECK(rig.tag(515) == Tag::mapped);
  }
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  CHECK(*rig.at(514) == 66);
  CHECK(*rig.at(515) == 4);
  *rig.at(515) = 67;
  // The next daemon has it.
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 32);
  CHECK(found->all_known());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
  CHECK(*rig.at(514) == 66);
  CHECK(*rig.at(515) == 67);
}

TEST_CASE("a damaged word that a fault repairs before it is counted may have named a mapping") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(544, 1);
  // All but one word are zero, and that one is damaged.
  std::array<std::uint64_t, 32> words{};
  words[7] = 0x0123456789abcdef;
  REQUIRE(::pwrite(rig.vm().files().words.get(), words.data(), sizeof words, 544 * 8) ==
          sizeof words);
  const auto pools = GENERATE(CustodyRig::Pools::kept, CustodyRig::Pools::lost);
  rig.restart_uncounted(pools);
  const PageIndex damaged{551};
  REQUIRE(rig.vm().table().take_idle_for_fill(damaged));
  const guest::LoadedWord word = rig.vm().table().load(damaged);
  REQUIRE_FALSE(word.has_value());
  REQUIRE(rig.vm().repair(damaged, word.error(), Tag::none, guest::Owner::filling));
  rig.vm().release(damaged);
  rig.count();
  CHECK_FALSE(rig.vm().mappings_known());
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->unnamed == 32);
  CHECK_FALSE(rig.vm().mappings_known());
  // For the cases after this one.
  REQUIRE(rig.discard(544, 32) == 0);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
}

TEST_CASE("a restart counts a lost page that the guest has not touched") {
  constexpr std::uint64_t kHole = 900, kThere = 901, kDiscarded = 902;
  CustodyRig& rig = CustodyRig::get();
  *rig.at(kThere) = 5;
  *rig.at(kDiscarded) = 6;
  rig.wait_for_owners(kHole, 3);
  REQUIRE(rig.discard(kDiscarded, 1) == 0);
  REQUIRE(sys::punch(rig.vm().files().rams[0], ByteCount{kHole * kPageSize}, ByteCount{kPageSize})
              .has_value());
  const std::array<std::uint64_t, 3> damaged{0x0123456789abcdef, 0x123456789abcdef0,
                                             0x23456789abcdef01};
  REQUIRE(::pwrite(rig.vm().files().words.get(), damaged.data(), sizeof damaged, kHole * 8) ==
          sizeof damaged);
  rig.restart();
  REQUIRE_FALSE(rig.vm().mappings_known());
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->all_known());
  CHECK(rig.tag(kHole) == Tag::poisoned);
  CHECK(rig.tag(kThere) == Tag::none);
  CHECK(rig.tag(kDiscarded) == Tag::none);
  CHECK(rig.vm().counters().poisoned.get() == 1);
  CHECK(rig.attached->lost() == 1);
  CHECK(*rig.at(kThere) == 5);
  CHECK(*rig.at(kDiscarded) == 0);
  // For the cases after this one: QEMU discards the lost page, and its mark goes.
  REQUIRE(rig.discard(kHole, 1) == 0);
  REQUIRE(::madvise(const_cast<char*>(rig.at(kHole)), kPageSize, MADV_DONTNEED) == 0);
  CHECK(*rig.at(kHole) == 0);
  CHECK(rig.vm().counters().poisoned.get() == 0);
  rig.finish();
}

TEST_CASE("a restart in the middle of the search finds the same, and an end gives all back") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(384, 1);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  rig.restart();  // nothing was known to the store
  REQUIRE(rig.recover().has_value());
  rig.compare_with_kernel();
  // Again, as after an attempt that failed near its end.
  rig.vm().set_mappings_known(false);
  REQUIRE(rig.recover().has_value());
  rig.compare_with_kernel();
  rig.finish();
  rig.clear();
}

TEST_CASE("a slot with other bytes than the word names is told, and stays while it is mapped") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(448, 1);
  const auto files = must(rig.contents->pool_files());
  const auto place = rig.kernel_slot(450);
  REQUIRE(place.has_value());
  // The word of 450 names the content of 451, as if it had been another's.
  const guest::Word own = rig.vm().table().load(PageIndex{450}).value();
  const ContentId other = rig.vm().table().load(PageIndex{451}).value().content();
  REQUIRE(rig.vm().table().take_for_restoring(PageIndex{450}));
  REQUIRE(rig.vm().advance(PageIndex{450}, own, own.cleared(), guest::Owner::restoring));
  rig.vm().release(PageIndex{450});
  REQUIRE(rig.vm().table().take_for_mapping(PageIndex{450}));
  const guest::Word none = rig.vm().table().load(PageIndex{450}).value();
  REQUIRE(rig.vm().advance(PageIndex{450}, none, none.becomes(Tag::mapped, other, 0, 0),
                           guest::Owner::mapping));
  rig.vm().release(PageIndex{450});
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->damaged == 1);
  CHECK(found->mapped == 32);
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  rig.finish();
  rig.compare_with_kernel();
  for (int i = 0; i < 4; ++i) rig.contents->trim();
  CHECK(*rig.at(450) == 3);  // the mapping is the truth
  rig.restart();             // without the finding, so that it can be put back
  REQUIRE(rig.recover().has_value());
  rig.finish();
  rig.clear();
  CHECK(*rig.at(450) == 3);
}
