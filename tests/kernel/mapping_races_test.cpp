// SPDX-License-Identifier: GPL-2.0-or-later
// Threads write to pages all the time, while the pages are mapped from the pool and put back. Every
// thread knows what it wrote last, and compares before it writes again. The protocol loses no
// write; without its guards writes are lost within seconds.
#include "kernel/kvm_writer.hpp"
#include "kernel/mapping_rig.hpp"

#include <thread>

#include "fault/filler.hpp"

using namespace ramfold;
using namespace ramfold::test;

namespace {

constexpr std::uint64_t kFirst = 512;
constexpr std::uint64_t kKvm = 576;
constexpr std::uint64_t kDiscarded = 640;
constexpr std::uint64_t kLate = 704;
constexpr unsigned kWriters = 4;  // each has a word of every page
constexpr unsigned kPagesWritten = 16;

// Each page is content 0 but for its first byte: the writers' words are zeros again and again, so
// that the page equals its content at those times.
class Writers {
 public:
  explicit Writers(MappingRig& rig) : rig_(rig) {
    for (unsigned i = 0; i < kPagesWritten; ++i) rig.fill(kFirst + i, 1000 + i);
    for (unsigned n = 0; n < kWriters; ++n) threads_.emplace_back([this, n] { run(n); });
  }
  ~Writers() {
    stop_ = true;
    for (std::thread& t : threads_) t.join();
  }
  std::uint64_t lost() const { return lost_; }
  std::uint64_t written() const { return written_; }

 private:
  void run(unsigned n) {
    std::array<std::uint64_t, kPagesWritten> last{};
    std::uint64_t value = 0;
    while (!stop_) {
      const auto i = static_cast<unsigned>(value++ % kPagesWritten);
      auto* const word = reinterpret_cast<volatile std::uint64_t*>(rig_.at(kFirst + i) + 64) + n;
      for (unsigned k = 0; k < 40; ++k) {
        if (*word != last[i]) {
          ++lost_;
          last[i] = *word;
        }
        const std::uint64_t next = k == 39 ? 0 : value * 64 + k;
        *word = next;
        last[i] = next;
      }
      written_ += 40;
      if (value % 64 == 0) ::usleep(1);
    }
  }

  MappingRig& rig_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> lost_{0};
  std::atomic<std::uint64_t> written_{0};
  std::vector<std::thread> threads_;
};

struct Count {
  std::uint64_t mapped = 0;
  std::uint64_t restored = 0;
};

// Maps as the protocol does, but without guards: nothing stops the writers.
void map_naively(MappingRig& rig) {
  for (unsigned i = 0; i < kPagesWritten; ++i) {
    PageCopy ours;
    PageCopy theirs;
    const PageRun page{PageIndex{kFirst + i}, PageCount{1}};
    const ContentId content{1000 + i};
    std::optional<ByteCount> slot;
    rig.pool.take(page.first, {&content, 1}, {&slot, 1});
    REQUIRE(rig.vm->read_pages(page, ours.bytes.data()));
    REQUIRE(rig.pool.read(*slot, theirs.bytes.data()));
    if (ours.bytes == theirs.bytes) {
      const std::array runs{page};
      const std::array slots{*slot};
      (void)rig.port.send(guest::AgentAct::map, runs, slots);
    }
  }
}
// All pages with one command: the agent copies them all, and then maps the RAM file over them.
void restore_naively(MappingRig& rig, std::uint64_t first) {
  const std::array runs{MappingRig::window(first)};
  (void)rig.port.send(guest::AgentAct::restore, runs);
}

class NoContents final : public store::ContentSource {
 public:
  store::Got get(GroupId, ContentId, std::byte*, store::FetchTicket) noexcept override {
    return store::Got::corrupt;
  }
  store::Booked drop(GroupId, ContentId) noexcept override { return store::Booked::done; }
};

template <typename Step>
void for_ms(int ms, Step step) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  while (std::chrono::steady_clock::now() < end) step();
}

}  // namespace

TEST_CASE("D9: writers lose nothing while their pages are mapped and put back") {
  MappingRig& rig = MappingRig::get();
  Count count;
  {
    Writers writers(rig);
    for_ms(4000, [&] {
      count.mapped += static_cast<unsigned>(std::popcount(rig.share(kFirst, 1000)));
      if (count.mapped % 3 == 0) ::usleep(50);  // time for copies to be made
      count.restored += static_cast<unsigned>(std::popcount(rig.restore(kFirst)));
    });
    CHECK(writers.lost() == 0);
    WARN(count.mapped << " mapped, " << count.restored << " put back, " << writers.written()
                      << " writes");
  }
  CHECK(count.mapped > 100);
  CHECK(count.restored == count.mapped);
  CHECK(rig.pool.taken() == 0);
}

TEST_CASE("D9: copy and mmap without a guard lose writes") {
  MappingRig& rig = MappingRig::get();
  Writers writers(rig);
  CHECK(soon([&] {
    (void)rig.share(kFirst, 1000);
    restore_naively(rig, kFirst);
    (void)rig.restore(kFirst);  // what the agent did is noted
    return writers.lost() != 0;
  }));
}

TEST_CASE("D9: a page that is compared and mapped without a guard loses writes") {
  MappingRig& rig = MappingRig::get();
  Writers writers(rig);
  CHECK(soon([&] {
    map_naively(rig);
    restore_naively(rig, kFirst);
    for (unsigned i = 0; i < kPagesWritten; ++i) rig.pool.give_back(PageIndex{kFirst + i});
    return writers.lost() != 0;
  }));
}

TEST_CASE("D9: a guest of KVM loses nothing, and does without the guard") {
  MappingRig& rig = MappingRig::get();
  for (unsigned i = 0; i < kPagesWritten; ++i) rig.fill(kKvm + i, 1100 + i);
  KvmWriter guest(const_cast<char*>(rig.at(kKvm)));
  if (!guest.runs()) {
    WARN("KVM is not usable here");
    return;
  }
  Count count;
  for_ms(4000, [&] {
    count.mapped += static_cast<unsigned>(std::popcount(rig.share(kKvm, 1100)));
    ::usleep(50);
    count.restored += static_cast<unsigned>(std::popcount(rig.restore(kKvm)));
  });
  REQUIRE(guest.runs());
  CHECK(guest.lost() == 0);
  WARN(count.mapped << " mapped, " << count.restored << " put back, " << guest.rounds()
                    << " rounds");
  CHECK(count.mapped > 100);
  CHECK(count.restored == count.mapped);
  CHECK(soon([&] {
    (void)rig.share(kKvm, 1100);
    ::usleep(50);
    restore_naively(rig, kKvm);
    (void)rig.restore(kKvm);
    return guest.lost() != 0;
  }));
}

TEST_CASE("D6: discards beside mapping and putting back leave zeros, and what was written since") {
  MappingRig& rig = MappingRig::get();
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> discards{0};
  std::vector<std::thread> threads;
  for (unsigned n = 0; n < 4; ++n) {
    threads.emplace_back([&, n] {
      for (std::uint64_t round = 1; !stop; ++round) {
        for (unsigned i = n; i < kPagesWritten; i += 4) {
          volatile char* const page = rig.at(kDiscarded + i);
          auto* const word = reinterpret_cast<volatile std::uint64_t*>(page + 64);
          *page = static_cast<char>(1200 + i);  // the page is its content now
          if (round % 4 == 0) ::usleep(200);
          *word = round;
          if (*word != round || *page != static_cast<char>(1200 + i)) ++wrong;
          if (round % 8 == 0) *word = 0;
          if (rig.discard(kDiscarded + i, 1) != 0) ++wrong;
          if (*page != 0 || *word != 0) ++wrong;
          ++discards;
        }
      }
    });
  }
  Count count;
  for_ms(4000, [&] {
    count.mapped += static_cast<unsigned>(std::popcount(rig.share(kDiscarded, 1200)));
    count.restored += static_cast<unsigned>(std::popcount(rig.restore(kDiscarded)));
  });
  stop = true;
  for (std::thread& t : threads) t.join();
  (void)rig.restore(kDiscarded);
  CHECK(wrong == 0);
  CHECK(count.mapped > 50);
  CHECK(rig.pool.taken() == 0);
  WARN(count.mapped << " mapped, " << discards << " discards");
}

TEST_CASE("D3: a late missing event of a page that maps the pool brings no zeros") {
  MappingRig& rig = MappingRig::get();
  for (unsigned i = 0; i < 16; ++i) rig.fill(kLate + i, 1300 + i);
  REQUIRE(rig.share(kLate, 1300) == 0xffff);
  rig.port.closed = true;  // they do not go back, and stay registered for guards
  REQUIRE(rig.restore(kLate) == 0);
  rig.port.closed = false;
  NoContents source;
  const std::atomic<bool> stopping{false};
  fault::Filler filler(*rig.vm, source, GroupId{}, stopping);
  fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kFaultFirst]);
  const auto serve = [&](std::uint64_t page, fault::Need need) {
    return filler.serve(PageIndex{page}, need, {}, me);
  };
  for (unsigned i = 0; i < 8; ++i) {
    CHECK(serve(kLate + i, i % 2 == 0 ? fault::Need::read : fault::Need::write) ==
          fault::Served::late);
  }
  for (unsigned i = 0; i < 16; ++i) {
    CHECK(rig.maps_pool(kLate + i));
    CHECK(*rig.at(kLate + i) == static_cast<char>(1300 + i));
  }
  // A hole of the RAM file under the same word: without zeros its event would come for ever.
  constexpr std::uint64_t kHole = kLate + 9;
  REQUIRE(rig.discard(kHole, 1) == 0);
  REQUIRE(rig.vm->uffd().register_range(rig.vm->range_of(MappingRig::window(kHole, 1))).outcome ==
          sys::Outcome::done);
  SECTION("a discard") {}
  SECTION("a discard that failed after it had dropped the mapping") {
    rig.vm->table().clear_discard(PageIndex{kHole});
  }
  CHECK_FALSE(rig.in_ram_file(kHole));
  CHECK(serve(kHole, fault::Need::read) == fault::Served::zeroed);
  CHECK(rig.in_ram_file(kHole));
  CHECK(*rig.at(kHole) == 0);
  CHECK(rig.restore(kLate) == 0xffff);
  CHECK(rig.pool.taken() == 0);
}
