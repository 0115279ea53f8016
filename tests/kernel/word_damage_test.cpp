// SPDX-License-Identifier: GPL-2.0-or-later
// A word of a page table is damaged: the page is lost or has its right bytes, never those of
// another page, and no other VM is affected. On real processes with a real userfaultfd, with and
// without a restart.
#include <unistd.h>
#include <catch2/catch.hpp>

#include "kernel/count_all.hpp"
#include "kernel/fold_rig.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using guest::Tag;
using guest::Word;
using test::GuestProcess;
using test::Rig;

namespace {

constexpr std::uint64_t kBits = 64;
// One damaged page for each bit, each with a neighbour behind it.
constexpr std::uint64_t kKind = 2 * kBits;
constexpr std::uint64_t kFolded = 0, kClean = kKind, kObserved = 2 * kKind, kPages = 3 * kKind;

std::uint64_t seed_of(std::uint64_t p) { return p + 1; }
bool is_damaged(std::uint64_t p) { return p % 2 == 0; }

// Every bit of the words of folded, clean and observed pages.
void damage(guest::Vm& vm, std::uint64_t p, std::uint64_t bits) {
  const int fd = vm.files().words.get();
  const auto at = static_cast<off_t>(p * sizeof(std::uint64_t));
  std::uint64_t word = 0;
  REQUIRE(::pread(fd, &word, sizeof word, at) == sizeof word);
  word ^= bits;
  REQUIRE(::pwrite(fd, &word, sizeof word, at) == sizeof word);
}
[[maybe_unused]] void damage_all(guest::Vm& vm) {
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (is_damaged(p)) damage(vm, p, std::uint64_t{1} << (p % kKind / 2));
  }
}

sys::Fd copy_of(const sys::Fd& fd) { return std::move(*fd.duplicate()); }

// What the keeper holds of a VM.
std::unique_ptr<guest::Vm> vm_again(const guest::Vm& vm) {
  guest::Vm::Files files;
  files.uffd = copy_of(vm.files().uffd);
  for (const sys::Fd& ram : vm.files().rams) files.rams.push_back(copy_of(ram));
  files.words = copy_of(vm.files().words);
  files.shared = copy_of(vm.files().shared);
  return std::move(*guest::Vm::make(vm.record(), std::move(files)));
}

struct TwoTenants {
  std::shared_ptr<store::Contents> contents = Rig::make_store();
  std::unique_ptr<GuestProcess> second = GuestProcess::start(PageCount{kPages});
  Rig mine{kPages, contents};
  Rig other{kPages, contents, nullptr, 2, std::move(second)};

  TwoTenants() {
    for (std::uint64_t p = 0; p < kPages; ++p) {
      mine.process->store(PageIndex{p}, seed_of(p));
      other.process->store(PageIndex{p}, 10'000 + seed_of(p));
    }
    // In turns, so that neighbouring contents are not one tenant's.
    for (int i = 0; i < 3; ++i) {
      mine.pass();
      other.pass();
    }
    mine.fold_until(kPages);
    other.fold_until(kPages);
    for (std::uint64_t p = kClean; p < kClean + kKind; ++p) (void)mine.process->load(PageIndex{p});
    for (std::uint64_t p = kObserved; p < kPages; ++p)
      mine.process->store(PageIndex{p}, seed_of(p));
    mine.rule = {Word::kAgeMax, Word::kAgeMax};
    mine.pass_until([&] {
      for (std::uint64_t p = kObserved; p < kPages; ++p) {
        if (mine.tag(p) != Tag::observed) return false;
      }
      return true;
    });
    for (std::uint64_t p = 0; p < kPages; ++p) {
      const Tag tag = p < kClean ? Tag::folded : p < kObserved ? Tag::clean : Tag::observed;
      REQUIRE(mine.tag(p) == tag);
    }
  }

  // A daemon dies, and another one counts and serves.
  void restart() {
    mine.faults->stop();
    other.faults->stop();
    mine.folder.reset();
    other.folder.reset();
    store::Contents::Files files{copy_of(contents->files().contents),
                                 copy_of(contents->files().arena),
                                 copy_of(contents->files().groups)};
    auto adopted = store::Contents::adopt(std::move(files));
    REQUIRE(adopted.has_value());
    const std::shared_ptr<store::Contents> next(std::move(*adopted));
    contents->hand_over();  // the end of what uses it here wipes no group
    for (Rig* rig : {&mine, &other}) {
      rig->faults.reset();
      auto vm = std::make_shared<daemon::AttachedVm>();
      vm->vm = vm_again(*rig->vm);
      rig->group = *next->group(rig->group_name);
      vm->group = *next->group(rig->group_name);
      vm->vm->begin_uncounted();
      test::count_all(*vm, *next);
      rig->vm = std::move(vm->vm);
    }
    REQUIRE(next->finish_recovery().has_value());
    for (Rig* rig : {&mine, &other}) rig->takes(next);
    contents = next;
  }

  void check(std::uint64_t page, std::uint64_t sum) const {
    INFO("page " << page << ", bit " << page % kKind / 2);
    const bool is_lost = is_damaged(page) && page < kClean;
    CHECK(sum == (is_lost ? GuestProcess::kBusError : GuestProcess::checksum(seed_of(page))));
  }
  void check_all() {
    for (std::uint64_t p = 0; p < kPages; ++p) check(p, mine.process->load(PageIndex{p}));
    for (std::uint64_t p = 0; p < kPages; ++p) {
      REQUIRE(other.process->load(PageIndex{p}) == GuestProcess::checksum(10'000 + seed_of(p)));
    }
    const store::Stats stats = contents->stats();
    CHECK(stats.miscounted == 0);
    CHECK(stats.corrupt == 0);
    CHECK(mine.vm->inconsistency() == guest::Inconsistency::none);
    CHECK(mine.vm->counters().poisoned.get() == kBits);
    CHECK(other.vm->counters().damaged_words.get() == 0);
    CHECK(other.vm->counters().poisoned.get() == 0);
  }
};

}  // namespace

#ifdef RAMFOLD_TEST_NO_WORD_CHECK

// That the cases below can fail: built with words that are believed as they are.
TEST_CASE("without the check of a word a guest gets the bytes of another page") {
  TwoTenants both;
  for (std::uint64_t p = kFolded; p < kClean; ++p) {
    const std::uint64_t bit = p / 2;
    if (is_damaged(p) && bit >= 32) damage(*both.mine.vm, p, std::uint64_t{1} << bit);
  }
  std::uint64_t wrong = 0;
  for (std::uint64_t p = kFolded; p < kClean; ++p) {
    const std::uint64_t sum = both.mine.process->load(PageIndex{p});
    wrong += sum != GuestProcess::kBusError && sum != GuestProcess::checksum(seed_of(p));
  }
  CHECK(wrong > 0);
}

#else

TEST_CASE("a flipped bit of a word costs at most its page") {
  TwoTenants both;
  damage_all(*both.mine.vm);
  SECTION("pages are read") {
    both.check_all();
    CHECK(both.mine.vm->counters().damaged_words.get() == kBits);
  }
  SECTION("and again after a restart") {
    both.restart();
    both.check_all();
  }
  SECTION("they are read, and again after a restart") {
    both.check_all();
    both.restart();
    both.check_all();
  }
  SECTION("the scan comes first, and what is there is folded again") {
    both.mine.rule = {1, 1};
    both.mine.fold_all();
    both.check_all();
    for (std::uint64_t p = 0; p < kPages; ++p) {
      if (p >= kClean || !is_damaged(p)) both.mine.process->store(PageIndex{p}, seed_of(p));
    }
    both.check_all();
  }
  SECTION("pages that are there are written to, and the neighbours of those that are not") {
    for (std::uint64_t p = 0; p < kPages; ++p) {
      if (p >= kClean || !is_damaged(p)) both.mine.process->store(PageIndex{p}, seed_of(p));
    }
    both.check_all();
  }
  SECTION("everything is unfolded") {
    both.mine.vm->gate().close();
    fault::FillerThread me(both.mine.vm->fillings()[guest::Fillings::kUnfolder]);
    std::uint64_t poisoned = 0;
    CHECK(both.mine.vm->each_speaking([&](PageIndex p) {
      poisoned += both.mine.faults->filler().unfold(p, {}, me) == fault::Served::poisoned;
      return true;
    }));
    CHECK(poisoned == kBits);
    both.check_all();
    // What was named by damaged words alone is still referred to, until the next recovery.
    CHECK(both.contents->stats().groups[both.mine.group.id().value].forms[2].contents <= kKind);
    both.restart();
    CHECK(both.contents->stats().groups[both.mine.group.id().value].forms[2].contents == 0);
    both.check_all();
  }
}

TEST_CASE("a discarded page is zero, whatever became of its word") {
  TwoTenants both;
  for (const std::uint64_t p : {kFolded + 2, kClean + 2}) {
    damage(*both.mine.vm, p, 1u << 20);
    both.mine.set_discard_bit(p);
    both.mine.process->discard(PageIndex{p});
    CHECK(both.mine.process->load(PageIndex{p}) == GuestProcess::checksum(0));
    CHECK(both.mine.process->load(PageIndex{p + 1}) == GuestProcess::checksum(seed_of(p + 1)));
  }
  CHECK(both.mine.vm->counters().poisoned.get() == 0);
}

TEST_CASE("a word that names another tenant's content gets nothing of it, and stops its VM") {
  TwoTenants both;
  guest::Vm& vm = *both.mine.vm;
  guest::PageTable& table = vm.table();
  const Word foreign = both.other.vm->table().load(PageIndex{5}).value();
  // As damage that the check does not see.
  const PageIndex p{kFolded};
  REQUIRE(table.take_idle_for_fill(p));
  const Word seen = table.load(p).value();
  REQUIRE(vm.advance(p, seen, seen.becomes(Tag::folded, foreign.content(), seen.age(), 0),
                     guest::Owner::filling));
  vm.release(p);
  SECTION("served at once") {}
  SECTION("counted by the next daemon") {
    both.restart();
    CHECK(both.mine.vm->inconsistency() == guest::Inconsistency::references);
  }
  CHECK(both.mine.process->load(p) == GuestProcess::kBusError);
  CHECK(both.mine.vm->inconsistency() == guest::Inconsistency::references);
  CHECK(both.contents->stats().miscounted > 0);
  CHECK(both.contents->stats().corrupt == 0);
  CHECK_FALSE(both.contents->is_stopped(both.other.group));
  for (std::uint64_t q = 0; q < kPages; ++q) {
    REQUIRE(both.other.process->load(PageIndex{q}) == GuestProcess::checksum(10'000 + seed_of(q)));
    if (q == p.value) continue;
    REQUIRE(both.mine.process->load(PageIndex{q}) == GuestProcess::checksum(seed_of(q)));
  }
  // The neighbour goes on.
  both.other.fold_until(kPages);
  // It does not, whoever opens its gate.
  CHECK_FALSE(both.mine.vm->gate().open(0, both.mine.vm->gate().epoch()));
  both.mine.rule = {1, 1};
  both.mine.process->store(PageIndex{kObserved}, 5);
  both.mine.fold_all();
  CHECK(both.mine.tag(kObserved) == Tag::observed);
}

TEST_CASE("a change of a word that is not in the table, or a word that moved, stops its VM only") {
  TwoTenants both;
  guest::Vm& vm = *both.mine.vm;
  guest::PageTable& table = vm.table();
  const PageIndex p{kFolded};
  REQUIRE(table.take_idle_for_fill(p));
  const Word seen = table.load(p).value();
  SECTION("a change") {
    CHECK_FALSE(vm.advance(p, seen, seen.becomes(Tag::observed, 1u, 0, 0), guest::Owner::filling));
    CHECK(vm.inconsistency() == guest::Inconsistency::transition);
  }
  SECTION("a word that moved") {
    CHECK_FALSE(
        vm.advance(p, seen.with_age(seen.age() + 1), seen.cleared(), guest::Owner::filling));
    CHECK(vm.inconsistency() == guest::Inconsistency::moved);
  }
  vm.release(p);
  CHECK(table.load(p).value() == seen);
  CHECK_FALSE(vm.gate().is_open());
  both.mine.rule = {1, 1};
  for (std::uint64_t q = 0; q < kPages; ++q) {
    REQUIRE(both.mine.process->load(PageIndex{q}) == GuestProcess::checksum(seed_of(q)));
    REQUIRE(both.other.process->load(PageIndex{q}) == GuestProcess::checksum(10'000 + seed_of(q)));
  }
  CHECK_FALSE(vm.gate().open(0, vm.gate().epoch()));
  both.mine.fold_all();
  CHECK(both.mine.tag(0) == Tag::clean);
  both.other.fold_until(kPages);
}

#endif
