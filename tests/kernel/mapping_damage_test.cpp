// SPDX-License-Identifier: GPL-2.0-or-later
// The word of a page that maps the pool is damaged: the mapping is the truth (T2), so the guest
// reads the right bytes and loses no write, with and without a restart. The mapping and its slot
// stay until the VM ends, or until QEMU discards the page.
#include <unistd.h>

#include <array>
#include <memory>
#include <vector>

#include "fold/folder.hpp"
#include "kernel/custody_rig.hpp"

using namespace ramfold;
using namespace ramfold::test;

namespace {

constexpr std::uint64_t kFirst = 512;
constexpr unsigned kBits = 64;
constexpr unsigned kCount = 2 * kBits;  // one damaged page for each bit, each with a neighbour
constexpr unsigned kWindow = 16;
constexpr unsigned kWindows = kCount / kWindow;

// Windows 2n and 2n+1 have the same contents. Of most contents one page is damaged and one is not;
// of some of the last two windows both are.
constexpr bool is_damaged(unsigned i) {
  return i < 3 * kCount / 4 ? (i + i / kWindow) % 2 == 0 : i % 2 == 0;
}
constexpr unsigned bit_of(unsigned i) { return i / 2; }
constexpr guest::PageMask healthy(unsigned window) {
  guest::PageMask mask = 0;
  for (unsigned i = 0; i < kWindow; ++i) {
    if (!is_damaged(window * kWindow + i)) mask |= guest::PageMask{1} << i;
  }
  return mask;
}
PageRun run_of(unsigned window) { return CustodyRig::window(kFirst + window * kWindow); }

// The second byte of a page: that of its two windows.
constexpr char mark_of(unsigned i) {
  return static_cast<char>(kFirst / kWindow + i / kWindow / 2 * 2);
}

enum class Ran : bool { no, yes };

class DamagedRig {
 public:
  DamagedRig() : rig(CustodyRig::get()) {
    for (unsigned i = 0; i < kCount; ++i) value_[i] = static_cast<char>(1 + i % kWindow);
    // A case before this one may have found its VM inconsistent.
    rig.restart();
    REQUIRE(rig.recover().has_value());
    rig.finish();
  }

  void share() {
    for (unsigned w = 0; w < kWindows; w += 2) rig.share_twice(run_of(w).first.value, 1);
  }
  // All that a daemon does to map the pages; it is killed before the agents' answers.
  void begin_to_share() {
    for (unsigned w = 0; w < kWindows; w += 2) rig.fill_twice(run_of(w).first.value, 1);
    for (unsigned w = 0; w < kWindows; ++w) {
      auto run = sharing(w);
      lose([&] { return run->map(rig.port, 1s); });
      rig.abandon(std::move(run));
      for (unsigned i = 0; i < kWindow; ++i)
        REQUIRE(rig.tag(run_of(w).first.value + i) == Tag::mapped);
    }
  }
  void begin_to_restore() {
    for (unsigned w = 0; w < kWindows; ++w) {
      auto run = std::make_unique<fold::RestoringRun>(rig.vm(), rig.vmas, rig.proof, rig.pool(),
                                                      run_of(w));
      lose([&] { return run->restore(rig.port, 1s); });
      rig.abandon(std::move(run));
    }
  }
  void damage() {
    for (unsigned i = 0; i < kCount; ++i) {
      if (!is_damaged(i)) continue;
      const int fd = rig.vm().files().words.get();
      const auto at = static_cast<off_t>((kFirst + i) * sizeof(std::uint64_t));
      std::uint64_t word = 0;
      REQUIRE(::pread(fd, &word, sizeof word, at) == sizeof word);
      word ^= std::uint64_t{1} << bit_of(i);
      REQUIRE(::pwrite(fd, &word, sizeof word, at) == sizeof word);
      REQUIRE(is_word_damaged(i));
    }
  }
  bool is_word_damaged(unsigned i) {
    return !rig.vm().table().load(PageIndex{kFirst + i}).has_value();
  }
  bool all_words_are_damaged() {
    for (unsigned i = 0; i < kCount; ++i) {
      if (is_damaged(i) && !is_word_damaged(i)) return false;
    }
    return true;
  }
  void write(unsigned i, char value) {
    *rig.at(kFirst + i) = value;
    value_[i] = value;
  }
  // A pair of pages of every window: one that is damaged, and its neighbour.
  void write_some(char value) {
    for (unsigned w = 0; w < kWindows; ++w) {
      write(w * kWindow + 4, value);
      write(w * kWindow + 5, value);
    }
  }
  // Threads that write such pages and wait at guards that a dead daemon left.
  void write_at_guards(char value) {
    for (unsigned w = 0; w < kWindows; ++w) {
      for (const unsigned i : {w * kWindow + 6, w * kWindow + 7}) {
        writers_.push_back(std::make_unique<Writer>(rig, kFirst + i, value));
        value_[i] = value;
      }
    }
    CHECK(writers_.front()->waits());
    for (const auto& writer : writers_) CHECK_FALSE(writer->done);
  }
  void carry_out(Ran ran) {
    if (ran == Ran::no) return;
    for (const rf_map_command& command : left_) rig.port.carry_out(command);
  }
  // Words are damaged, and a daemon begins while a command of the one before it may still run.
  // Until the fence it repairs nothing.
  daemon::MappingsFound take_over(Ran ran) {
    damage();
    rig.restart();
    write_at_guards(99);
    look();
    CHECK(all_words_are_damaged());
    carry_out(ran);
    return must(rig.recover());
  }
  void check() {
    writers_.clear();
    for (unsigned i = 0; i < kCount; ++i) {
      INFO("page " << i << ", bit " << bit_of(i) << (is_damaged(i) ? ", damaged" : ""));
      CHECK(*rig.at(kFirst + i) == value_[i]);
      CHECK(rig.at(kFirst + i)[1] == mark_of(i));
    }
    CHECK(rig.contents->stats().miscounted == 0);
    CHECK(rig.contents->stats().corrupt == 0);
    CHECK(rig.vm().counters().poisoned.get() == 0);
  }
  // The scan looks at every page, as often as it takes until a page could be folded.
  void look() {
    fold::Folder folder(*rig.contents, rig.proof);
    for (int pass = 0; pass < 3; ++pass) {
      rig.vm().next_pass();
      for (unsigned w = 0; w < kWindows; ++w) {
        scan::Window window;
        window.pages = run_of(w);
        window.observe = CustodyRig::kAll;
        folder.look(rig.vm(), rig.attached->group, window);
      }
    }
  }
  guest::PageMask restore(unsigned window) { return rig.restore(run_of(window).first.value); }
  guest::PageMask map(unsigned window) {
    auto run = sharing(window);
    REQUIRE(run->map(rig.port, 1s) == Settled::yes);
    return run->mapped();
  }
  void discard(unsigned i) {
    REQUIRE(rig.discard(kFirst + i, 1) == 0);
    CHECK(*rig.at(kFirst + i) == 0);
  }
  // Of all words to contents.
  std::uint64_t references() {
    std::uint64_t all = 0;
    for (const auto& form : rig.contents->stats().forms) all += form.references;
    return all;
  }
  void trim() {
    for (int i = 0; i < 4; ++i) rig.contents->trim();
  }
  // For the cases after this one: the damaged pages go back as discards of QEMU's.
  void heal() {
    for (unsigned i = 0; i < kCount; ++i) {
      if (is_damaged(i) && rig.kernel_slot(kFirst + i)) discard(i);
    }
    rig.restart();
    REQUIRE(rig.recover().has_value());
    REQUIRE(rig.vm().mappings_known());
    look();
    for (unsigned i = 0; i < kCount; ++i) REQUIRE_FALSE(is_word_damaged(i));
    rig.finish();
    rig.clear();
    // Guards that nobody met are lifted.
    for (unsigned i = 0; i < kCount; ++i) *rig.at(kFirst + i) = 1;
    rig.wait_for_owners(kFirst, kCount);
  }

  CustodyRig& rig;

 private:
  // Only what two pages name is shared. What is put once too often goes with the next restart.
  std::unique_ptr<fold::SharingRun> sharing(unsigned window) {
    for (unsigned i = 0; i < kWindow; ++i) (void)rig.put(run_of(window).first.value + i);
    return rig.sharing(run_of(window).first.value);
  }
  template <typename Command>
  void lose(Command command) {
    rig.port.loses = true;
    REQUIRE(command() == Settled::no);
    rig.port.loses = false;
    left_.push_back(rig.port.left);
  }

  std::array<char, kCount> value_{};
  std::vector<rf_map_command> left_;
  std::vector<std::unique_ptr<Writer>> writers_;
};

}  // namespace

TEST_CASE("a flipped bit of the word of a mapped page costs nothing while the daemon lives") {
  DamagedRig both;
  both.share();
  both.write_some(91);
  both.damage();
  both.check();
  both.write_some(92);
  both.look();
  both.check();
  CHECK(both.all_words_are_damaged());
  // The neighbours go back, and are shared again.
  for (unsigned w = 0; w < kWindows; ++w) CHECK(both.restore(w) == healthy(w));
  CHECK(both.rig.pool().mapped().value == kBits);
  CHECK(both.references() == kBits);  // those of the damaged words
  both.trim();
  both.check();
  for (unsigned w = 0; w < kWindows; ++w) CHECK(both.map(w) == healthy(w));
  both.trim();
  both.check();
  CHECK(both.all_words_are_damaged());
  both.heal();
}

TEST_CASE("a flipped bit of the word of a mapped page costs nothing over a restart") {
  DamagedRig both;
  both.share();
  both.write_some(91);
  both.damage();
  both.rig.restart();
  CHECK_FALSE(both.rig.vm().mappings_known());
  both.write_some(92);
  both.look();
  both.check();
  const auto found = both.rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == kBits);
  CHECK(found->unnamed == kBits);
  CHECK(found->left + found->damaged + found->strange == 0);
  CHECK_FALSE(both.rig.vm().mappings_known());
  // It is told, and stays so for the next daemon.
  CHECK(both.rig.vm().inconsistency() == guest::Inconsistency::moved);
  CHECK(both.all_words_are_damaged());
  // Contents that damaged words alone named are free; their slots are not.
  REQUIRE(both.rig.contents->finish_recovery().has_value());
  both.trim();
  both.write_some(93);
  both.look();
  both.check();
  CHECK(both.all_words_are_damaged());
  both.heal();
}

TEST_CASE("a page whose word is damaged while it begins to map the pool loses no write") {
  const Ran ran = GENERATE(Ran::no, Ran::yes);
  INFO("the agent ran the command: " << (ran == Ran::yes));
  DamagedRig both;
  both.begin_to_share();
  const auto found = both.take_over(ran);
  CHECK(found.mapped == (ran == Ran::yes ? kBits : 0));
  CHECK(found.left == (ran == Ran::yes ? 0 : kBits));
  CHECK(found.unnamed == (ran == Ran::yes ? kBits : 0));
  both.check();
  both.look();
  both.check();
  both.heal();
}

TEST_CASE("a page whose word is damaged while it is put back loses no write") {
  const Ran ran = GENERATE(Ran::no, Ran::yes);
  INFO("the agent ran the command: " << (ran == Ran::yes));
  DamagedRig both;
  both.share();
  both.write_some(91);
  both.begin_to_restore();
  const auto found = both.take_over(ran);
  CHECK(found.mapped == (ran == Ran::yes ? 0 : kBits));
  CHECK(found.left == (ran == Ran::yes ? kBits : 0));
  CHECK(found.unnamed == (ran == Ran::yes ? 0 : kBits));
  both.check();
  both.look();
  both.check();
  both.heal();
}

TEST_CASE("a mapped page with a damaged word that QEMU discards is RAM again, and maps no more") {
  DamagedRig both;
  both.share();
  both.damage();
  for (unsigned i = 0; i < kCount; ++i) {
    if (!is_damaged(i)) continue;
    both.discard(i);
    // The same bytes as before: such a page may be shared.
    both.rig.at(kFirst + i)[1] = mark_of(i);
    both.write(i, static_cast<char>(1 + i % kWindow));
  }
  both.look();
  for (unsigned i = 0; i < kCount; ++i) {
    if (is_damaged(i)) CHECK_FALSE(both.is_word_damaged(i));
  }
  // Its old slot is still noted, so it gets no other one.
  for (unsigned w = 0; w < kWindows; ++w) CHECK(both.map(w) == 0);
  CHECK(both.rig.vm().inconsistency() == guest::Inconsistency::slots);
  both.check();
  for (unsigned w = 0; w < kWindows; ++w) CHECK(both.restore(w) == healthy(w));
  both.check();
  both.heal();
}
