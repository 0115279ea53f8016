// SPDX-License-Identifier: GPL-2.0-or-later
// Random operations and restarts of the store against a plain model: which words name which page,
// and which of them map a slot of the pool.
#include <unistd.h>
#include <catch2/catch.hpp>
#include <map>
#include <set>
#include <vector>

#include "pages.hpp"
#include "random.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

struct Word {
  std::size_t group;
  std::uint64_t page;
  ContentId id;
  PoolSlot slot{};  // that the page maps; 0: none
};

class Model {
 public:
  explicit Model(std::uint64_t seed) : random_(seed) {
    for (std::string& name : names_) {
      name = "vm:" + std::to_string(next_name_++);
      groups_.push_back(must(store_->group(name)));
      pools_.push_back(must(store_->pool(groups_.back())).read_only);
    }
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      const std::uint64_t dice = random_.below(1000);
      if (dice < 400)
        put_run();
      else if (dice < 700)
        read();
      else if (dice < 960)
        drop();
      else if (dice < 970)
        share();
      else if (dice < 980)
        map_run();
      else if (dice < 985)
        unmap();
      else if (dice < 990)
        store_->trim();
      else if (dice < 995)
        end_group();
      else
        restart();
      if (i % 500 == 0) compare();
    }
    restart();
    while (!words_.empty()) drop();
    compare();
  }

 private:
  // Few enough that many are equal; zeros among them.
  PageCopy page(std::uint64_t number) const { return number == 0 ? PageCopy{} : page_of(number); }

  void put_run() {
    const std::size_t count = random_.below(Contents::kPutRunMax) + 1;
    const std::size_t group = random_.below(groups_.size());
    std::vector<PageCopy> pages(count);
    std::vector<PutRequest> requests(count);
    std::vector<Result<PutResult>> results(count);
    std::vector<std::uint64_t> numbers(count);
    for (std::size_t i = 0; i < count; ++i) {
      numbers[i] = random_.below(random_.one_in(2) ? 50 : 5000);
      pages[i] = page(numbers[i]);
      requests[i] = {&pages[i], store_->hash(groups_[group], pages[i])};
    }
    store_->put_run(groups_[group], requests, results);
    for (std::size_t i = 0; i < count; ++i) {
      REQUIRE(results[i]);
      bool expected = numbers[i] == 0;
      for (const Word& w : words_) expected |= w.group == group && w.page == numbers[i];
      CHECK(results[i]->existed == expected);
      words_.push_back({group, numbers[i], results[i]->ref.release()});
    }
  }

  std::size_t any_word() { return random_.below(words_.size()); }

  void read() {
    if (words_.empty()) return;
    const Word& w = words_[any_word()];
    REQUIRE(holds(*store_, w.id, page(w.page), groups_[w.group]));
  }
  void drop() {
    if (words_.empty()) return;
    const std::size_t i = any_word();
    const Word w = words_[i];
    words_[i] = words_.back();
    words_.pop_back();
    refuse_to_others(w);
    end_mapping(w);
    REQUIRE(store_->drop(groups_[w.group], w.id) == Booked::done);
  }
  void share() {
    if (words_.empty()) return;
    Word w = words_[any_word()];
    w.id = store_->share(groups_[w.group], w.id).release();
    w.slot = {};
    words_.push_back(w);
  }

  std::size_t words_of(const Word& of) const {
    std::size_t n = 0;
    for (const Word& w : words_) n += w.group == of.group && w.page == of.page;
    return n;
  }
  void map_run() {
    if (words_.empty()) return;
    const std::size_t group = random_.below(groups_.size());
    std::set<std::size_t> chosen;
    for (int i = 0; i < 40; ++i) {
      const std::size_t at = any_word();
      if (words_[at].group == group && words_[at].slot == PoolSlot{}) chosen.insert(at);
    }
    std::vector<ContentId> ids;
    for (const std::size_t at : chosen) ids.push_back(words_[at].id);
    std::vector<Result<PoolSlot>> slots(ids.size());
    store_->share_run(groups_[group], ids, slots);
    std::size_t i = 0;
    for (const std::size_t at : chosen) {
      const Result<PoolSlot>& slot = slots[i++];
      Word& w = words_[at];
      // A content that another word has shared may be in the pool yet.
      if (slot) {
        w.slot = *slot;
        REQUIRE(maps_its_page(w));
        continue;
      }
      REQUIRE(slot.error().code == (w.page == 0 ? EINVAL : EPERM));
      if (w.page != 0) REQUIRE(words_of(w) == 1);
    }
  }
  void unmap() {
    for (int i = 0; i < 50 && !words_.empty(); ++i) {
      Word& w = words_[any_word()];
      end_mapping(w);
      w.slot = {};
    }
  }
  void end_mapping(const Word& w) {
    if (w.slot == PoolSlot{}) return;
    REQUIRE(maps_its_page(w));
    REQUIRE(store_->unmap(groups_[w.group], w.slot) == Booked::done);
  }
  bool maps_its_page(const Word& w) const {
    return slot_holds(pools_[w.group].get(), w.slot, page(w.page));
  }

  // The VM of a group ends, its words are given up, and another comes.
  void end_group() {
    const std::size_t group = random_.below(groups_.size());
    const GroupId id = groups_[group];
    const bool first_its_use = random_.one_in(2);
    for (const Word& w : words_) {
      if (w.group == group) end_mapping(w);
    }
    if (first_its_use) groups_[group].reset();
    for (std::size_t i = words_.size(); i-- > 0;) {
      if (words_[i].group != group) continue;
      REQUIRE(store_->drop(id, words_[i].id) == Booked::done);
      words_[i] = words_.back();
      words_.pop_back();
    }
    groups_[group].reset();
    names_[group] = "vm:" + std::to_string(next_name_++);
    groups_[group] = must(store_->group(names_[group]));
    pools_[group] = must(store_->pool(groups_[group])).read_only;
  }

  // Who names a content of another group's gets nothing of it and changes nothing (I5).
  void refuse_to_others(const Word& w) {
    if (w.id == kZeroContent) return;
    const GroupId other = groups_[(w.group + 1) % groups_.size()];
    PageCopy out;
    CHECK(store_->get(other, w.id, out.bytes.data(), {}) == Got::corrupt);
    CHECK(store_->drop(other, w.id) == Booked::refused);
    CHECK_FALSE(store_->share(other, w.id));
    ++refused_;
  }

  // A restart, sometimes several while the last is not finished, with faults and drops in between.
  void restart() {
    auto next = must(Contents::adopt(same_files(*store_)));
    store_ = std::move(next);
    for (std::size_t i = 0; i < groups_.size(); ++i) groups_[i] = must(store_->group(names_[i]));
    refused_ = 0;
    std::vector<Word> counted;
    std::size_t die_at = random_.one_in(2) ? random_.below(words_.size() + 1) : words_.size() + 1;
    while (!words_.empty()) {
      if (die_at-- == 0) {
        words_.insert(words_.end(), counted.begin(), counted.end());
        return restart_again();
      }
      if (random_.one_in(5)) read();
      const std::size_t i = any_word();
      const Word w = words_[i];
      words_[i] = words_.back();
      words_.pop_back();
      REQUIRE(store_->count(groups_[w.group], w.id) == Booked::done);
      if (w.slot != PoolSlot{}) {
        REQUIRE(store_->note_mapping(groups_[w.group], w.id, w.slot) == Booked::done);
      }
      if (random_.one_in(20)) {
        end_mapping(w);
        REQUIRE(store_->drop(groups_[w.group], w.id) == Booked::done);
      } else {
        counted.push_back(w);
      }
    }
    words_ = std::move(counted);
    must(store_->finish_recovery());
    for (const GroupUse& group : groups_) must(store_->mappings_known(group));
    compare();
  }
  void restart_again() { restart(); }

  void compare() {
    std::set<std::pair<std::size_t, std::uint64_t>> distinct;
    std::uint64_t references = 0;
    std::uint64_t mappings = 0;
    for (const Word& w : words_) {
      if (w.slot != PoolSlot{}) {
        ++mappings;
        REQUIRE(maps_its_page(w));
      }
      REQUIRE(holds(*store_, w.id, page(w.page), groups_[w.group]));
      if (w.page == 0) continue;
      ++references;
      distinct.emplace(w.group, w.page);
    }
    const Stats stats = store_->stats();
    CHECK(stats.forms[1].contents + stats.forms[2].contents == distinct.size());
    CHECK(stats.forms[1].references + stats.forms[2].references == references);
    CHECK(stats.corrupt + stats.collisions + stats.unindexed == 0);
    CHECK(stats.miscounted == refused_);
    CHECK(stats.groups.size() == groups_.size());
    CHECK(stats.pool_mappings == mappings);
    CHECK(stats.arena_in_slots.value <= stats.arena_allocated.value);
    if (distinct.empty()) CHECK(stats.arena_in_slots.value == 0);
  }

  Random random_;
  std::unique_ptr<Contents> store_ = must(Contents::create(ByteCount{64u << 20}));
  std::uint64_t next_name_ = 0;
  std::array<std::string, 3> names_;
  std::vector<GroupUse> groups_;
  std::vector<sys::Fd> pools_;  // as QEMUs of the group have them
  std::vector<Word> words_;
  std::uint64_t refused_ = 0;  // since the last restart
};

}  // namespace

TEST_CASE("the store behaves as a map of pages, through restarts") {
  for (std::uint64_t i = 0; i < 6; ++i) {
    CAPTURE(seed_of_run(), i);
    Model(mix(seed_of_run() + i)).run(1500);
  }
}
