// SPDX-License-Identifier: GPL-2.0-or-later
// Recovery ends although words are not counted: what they may name stays in the store.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <vector>

#include "greedy.hpp"
#include "header_words.hpp"
#include "pages.hpp"
#include "store/reform/reformer.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

constexpr ByteCount kArena{64u << 20};

// Words of a VM that recovery counts, of one that it cannot count yet, and of one in another group.
struct ThreeVms {
  static constexpr std::uint64_t kPages = 300;
  std::unique_ptr<Contents> store = must(Contents::create(kArena));
  GroupUse group = must(store->group("a"));
  GroupUse other = must(store->group("b"));
  std::map<std::uint64_t, ContentId> counted, uncounted, others;

  // Half of the uncounted VM's pages equal those of the counted one.
  ThreeVms() {
    for (std::uint64_t i = 0; i < kPages; ++i) {
      counted[i] = put(*store, group, page_of(i)).ref.release();
      const std::uint64_t its = i + kPages / 2;
      uncounted[its] = put(*store, group, page_of(its)).ref.release();
      others[i] = put(*store, other, page_of(i)).ref.release();
    }
  }
  void restart() {
    auto next = must(Contents::adopt(same_files(*store)));
    store->hand_over();
    group = must(next->group("a"));
    other = must(next->group("b"));
    store = std::move(next);
  }
  void recover(const Uncounted& some) {
    restart();
    for (const auto& [number, id] : counted) store->count(group, id);
    for (const auto& [number, id] : others) store->count(other, id);
    must(store->finish_recovery(some));
  }
  Uncounted in_group() const { return {false, {group}}; }
  // The counted VMs give up all that they have, and others store as much again. With a freed
  // content its id and its bytes would be used again.
  void give_up_and_store_anew(std::uint64_t first) {
    for (const auto& [number, id] : counted) store->drop(group, id);
    for (const auto& [number, id] : others) store->drop(other, id);
    counted.clear();
    others.clear();
    for (std::uint64_t i = first; i < first + 2 * kPages; ++i) {
      counted[i] = put(*store, group, page_of(i)).ref.release();
      others[i] = put(*store, other, page_of(i)).ref.release();
    }
  }
  void check_all() const {
    for (const auto& [number, id] : uncounted) REQUIRE(holds(*store, id, page_of(number), group));
    for (const auto& [number, id] : counted) REQUIRE(holds(*store, id, page_of(number), group));
    for (const auto& [number, id] : others) REQUIRE(holds(*store, id, page_of(number), other));
  }
  std::uint64_t contents() const {
    std::uint64_t sum = 0;
    for (const FormStats& form : store->stats().forms) sum += form.contents;
    return sum;
  }
  std::uint64_t references() const {
    std::uint64_t sum = 0;
    for (const FormStats& form : store->stats().forms) sum += form.references;
    return sum;
  }
  void count_late() {
    for (const auto& [number, id] : uncounted) REQUIRE(store->count(group, id) == Booked::done);
  }
};

}  // namespace

TEST_CASE("what a VM that is not counted may name stays, while others put and drop") {
  ThreeVms vms;
  Uncounted some = vms.in_group();
  some.any_group = GENERATE(false, true);
  vms.recover(some);
  CHECK_FALSE(vms.store->recovering());
  CHECK(vms.store->has_uncounted(vms.group));
  CHECK(vms.store->has_uncounted(vms.other) == some.any_group);
  vms.give_up_and_store_anew(10'000);
  vms.check_all();
  vms.count_late();
  vms.give_up_and_store_anew(20'000);
  vms.check_all();
  vms.store->narrow({});
  CHECK_FALSE(vms.store->has_uncounted());
  vms.check_all();
  CHECK(vms.contents() == vms.uncounted.size() + vms.counted.size() + vms.others.size());
  CHECK(vms.references() == vms.contents());
  for (const auto& [number, id] : vms.uncounted) vms.store->drop(vms.group, id);
  vms.uncounted.clear();
  vms.give_up_and_store_anew(30'000);
  vms.check_all();
  CHECK(vms.contents() == vms.counted.size() + vms.others.size());
  CHECK(vms.references() == vms.contents());
  CHECK(vms.store->stats().miscounted == 0);
  CHECK(vms.store->stats().corrupt == 0);
}

TEST_CASE("contents of other groups go meanwhile, and those of a VM that has ended go then") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  for (const auto& [number, id] : vms.others) vms.store->drop(vms.other, id);
  vms.others.clear();
  CHECK(vms.contents() == ThreeVms::kPages * 3 / 2);
  for (const auto& [number, id] : vms.counted) vms.store->drop(vms.group, id);
  vms.counted.clear();
  CHECK(vms.contents() == ThreeVms::kPages * 3 / 2);
  CHECK(vms.references() == 0);
  vms.check_all();
  vms.store->narrow(vms.in_group());
  CHECK(vms.contents() == ThreeVms::kPages * 3 / 2);
  vms.store->narrow({});  // it has ended
  CHECK(vms.contents() == 0);
  CHECK(vms.store->stats().arena_in_slots.value == 0);
  CHECK(vms.store->stats().miscounted == 0);
  const GroupId was = vms.group;
  vms.group.reset();
  const GroupUse next = must(vms.store->group("c"));
  CHECK(next.id() == was);  // the group has gone
}

TEST_CASE("of several groups each is let go of when its VMs are counted") {
  ThreeVms vms;
  vms.recover({true, {}});
  vms.count_late();
  vms.store->narrow({false, {vms.other}});
  CHECK_FALSE(vms.store->has_uncounted(vms.group));
  CHECK(vms.store->has_uncounted(vms.other));
  const std::uint64_t before = vms.contents();
  for (const auto& [number, id] : vms.others) vms.store->drop(vms.other, id);
  CHECK(vms.contents() == before);
  for (const auto& [number, id] : vms.others)
    CHECK(holds(*vms.store, id, page_of(number), vms.other));
  vms.others.clear();
  vms.store->narrow({});
  CHECK(vms.contents() == before - ThreeVms::kPages);
  vms.check_all();
}

TEST_CASE("a second restart while a VM is not counted loses nothing") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  vms.give_up_and_store_anew(10'000);
  for (std::uint64_t i = 0; i < 20; ++i)  // it was being counted
    REQUIRE(vms.store->count(vms.group, vms.uncounted.at(ThreeVms::kPages / 2 + i)) ==
            Booked::done);
  vms.recover(vms.in_group());
  vms.give_up_and_store_anew(20'000);
  vms.check_all();
  vms.count_late();
  vms.store->narrow({});
  vms.check_all();
  CHECK(vms.references() == vms.contents());
  vms.recover({});  // and now nobody counts it: it has ended
  CHECK(vms.contents() == vms.counted.size() + vms.others.size());
}

TEST_CASE("a group lives as long as a VM of it is not counted, and its name finds it") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  const GroupId id = vms.group;
  for (const auto& [number, content] : vms.counted) vms.store->drop(id, content);
  vms.counted.clear();
  vms.group.reset();
  const GroupUse next = must(vms.store->group("c"));
  CHECK(next.id() != id);
  vms.group = must(vms.store->group("a"));
  CHECK(vms.group.id() == id);
  vms.check_all();
}

TEST_CASE("an id without a content is not used again while a word may name it") {
  ThreeVms vms;
  const ContentId lost = vms.uncounted.at(ThreeVms::kPages);  // no other VM names it
  write_u64(vms.store->files().contents, where_offset(lost), 0);
  vms.recover(vms.in_group());
  vms.give_up_and_store_anew(10'000);
  for (const auto& [number, id] : vms.counted) REQUIRE(id != lost);
  PageCopy out;
  CHECK(vms.store->get(vms.group, lost, out.bytes.data(), {}) == Got::corrupt);
  CHECK(vms.store->count(vms.group, lost) == Booked::refused);
  vms.store->narrow({});
  bool is_used = false;
  for (std::uint64_t i = 0; i < 4 * ThreeVms::kPages && !is_used; ++i)
    is_used = put(*vms.store, vms.other, page_of(50'000 + i)).ref.release() == lost;
  CHECK(is_used);
}

TEST_CASE("a late word that names a content of after the recovery is refused") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  const ContentId later = put(*vms.store, vms.group, page_of(77'777)).ref.release();
  CHECK(vms.store->count(vms.group, later) == Booked::refused);
  CHECK(vms.store->stats().miscounted == 1);
  vms.check_all();
}

TEST_CASE("no page maps the pool of a group with a VM that is not counted") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  CHECK(vms.store->pool(vms.group).error().code == EAGAIN);
  CHECK(vms.store->mappings_known(vms.group).error().code == EAGAIN);
  CHECK(vms.store->pool(vms.other).has_value());
  CHECK(vms.store->mappings_known(vms.other).has_value());
  // The store's hold is no page: such a content is not shared.
  CHECK_FALSE(vms.store->is_shared(vms.group, vms.counted.at(3)));
  vms.store->narrow({});
  CHECK(vms.store->pool(vms.group).has_value());
}

TEST_CASE("patches whose references only a word that is not counted names can be read") {
  constexpr std::uint64_t kKin = 8;
  ThreeVms vms;
  auto reformer = must(Reformer::make(*vms.store));
  std::map<std::uint64_t, ContentId> kin;
  for (std::uint64_t i = 0; i < kKin; ++i)
    kin[i] = put(*vms.store, vms.group, kin_of(1, i)).ref.release();
  std::uint64_t now = 1000;
  const auto come_round = [&] {
    REQUIRE(reformer->step(greedy(), now, 60'000'000'000).came_round);
    now += 1000;
  };
  come_round();
  const auto patched = [&] {
    const Stats stats = vms.store->stats();
    return stats.forms[static_cast<std::size_t>(Form::patch)].contents +
           stats.forms[static_cast<std::size_t>(Form::delta)].contents;
  };
  REQUIRE(patched() > 0);
  reformer.reset();
  vms.recover(vms.in_group());  // nobody counts the kin
  reformer = must(Reformer::make(*vms.store));
  const auto check = [&] {
    for (const auto& [number, id] : kin)
      REQUIRE(holds(*vms.store, id, kin_of(1, number), vms.group));
  };
  vms.give_up_and_store_anew(10'000);
  come_round();
  check();
  vms.give_up_and_store_anew(20'000);
  check();
  const std::uint64_t references = vms.references();
  come_round();
  CHECK(vms.references() == references);
  for (const auto& [number, id] : kin) REQUIRE(vms.store->count(vms.group, id) == Booked::done);
  vms.count_late();
  vms.store->narrow({});
  come_round();
  check();
  vms.check_all();
  for (const auto& [number, id] : kin) vms.store->drop(vms.group, id);
  come_round();
  CHECK(vms.contents() == vms.uncounted.size() + vms.counted.size() + vms.others.size());
  CHECK(vms.references() == vms.contents());
  CHECK(vms.store->stats().miscounted == 0);
}

TEST_CASE("a reference dropped too often does not give up what is held, and stops its group") {
  ThreeVms vms;
  vms.recover(vms.in_group());
  // Of this content the hold is the only reference.
  const std::uint64_t number = ThreeVms::kPages + 7;
  REQUIRE_FALSE(vms.counted.contains(number));
  const ContentId id = vms.uncounted.at(number);
  (void)vms.store->drop(vms.group, id);
  CHECK(vms.store->is_stopped(vms.group));
  CHECK_FALSE(vms.store->is_stopped(vms.other));
  for (std::uint64_t i = 10'000; i < 10'000 + 2 * ThreeVms::kPages; ++i)
    vms.others[i] = put(*vms.store, vms.other, page_of(i)).ref.release();
  vms.check_all();
  vms.count_late();
  vms.store->narrow({});
  vms.check_all();
}

TEST_CASE("the end of a hold takes no reference that the hold has not got") {
  ThreeVms vms;
  // The header of a content that a counted word names has lost its place.
  const ContentId damaged = vms.counted.at(3);
  vms.counted.erase(3);
  write_u64(vms.store->files().contents, where_offset(damaged), 0);
  vms.restart();
  CHECK(vms.store->count(vms.group, damaged) == Booked::done);
  for (const auto& [number, id] : vms.counted) vms.store->count(vms.group, id);
  for (const auto& [number, id] : vms.others) vms.store->count(vms.other, id);
  must(vms.store->finish_recovery(vms.in_group()));
  vms.count_late();
  vms.store->narrow({});
  CHECK(vms.store->drop(vms.group, damaged) == Booked::done);
  CHECK_FALSE(vms.store->is_stopped(vms.group));
  CHECK(vms.store->stats().miscounted == 0);
  vms.check_all();
}
