// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/scratch_pool.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>
#include <vector>

using namespace ramfold::store;

namespace {

// Each test its own: a pool is one for all of a type.
template <int Test>
struct Scratch {
  static inline std::atomic<int> alive{0};
  Scratch* next = nullptr;
  std::atomic<int> users{0};
  Scratch() { ++alive; }
  ~Scratch() { --alive; }
};

}  // namespace

TEST_CASE("a scratch that was given back is the next one's, and goes with the thread it was for") {
  using Mine = Scratch<1>;
  using Pool = ScratchPool<Mine>;
  std::thread([] {
    Pool::prepare();
    Pool::prepare();  // once a thread
    CHECK(Mine::alive == 1);
    const Mine* first = nullptr;
    {
      const Pool::Lease lease;
      first = &*lease;
    }
    const Pool::Lease again;
    CHECK(&*again == first);
    const Pool::Lease beyond;
    CHECK(&*beyond != first);
    CHECK(Mine::alive == 2);
  }).join();
  CHECK(Mine::alive == 1);  // what was taken beyond stays for others
}

TEST_CASE("one that is prepared is taken after those that were used") {
  using Mine = Scratch<3>;
  using Pool = ScratchPool<Mine>;
  const auto taken = [] {
    const Pool::Lease lease;
    return &*lease;
  };
  std::thread([&] {
    const Mine* const used = taken();
    std::thread([&] {
      Pool::prepare();
      CHECK(Mine::alive == 2);
      CHECK(taken() == used);
    }).join();
  }).join();
  CHECK(Mine::alive == 0);
}

TEST_CASE("threads that come and go share scratches, each for itself, and leave none behind") {
  using Mine = Scratch<2>;
  using Pool = ScratchPool<Mine>;
  std::atomic<int> shared{0};
  constexpr int kThreads = 6;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&shared] {
        Pool::prepare();
        for (int n = 0; n < 200; ++n) {
          const Pool::Lease lease;
          if ((*lease).users.fetch_add(1) != 0) ++shared;
          std::this_thread::yield();
          (*lease).users.fetch_sub(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    REQUIRE(shared == 0);
    REQUIRE(Mine::alive == 0);
  }
}
