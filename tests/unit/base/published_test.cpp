// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/published.hpp"

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

using ramfold::Published;

namespace {

struct Value {
  bool flag = false;
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  std::uint32_t c = 0;
};

Value of(std::uint64_t n) { return {n % 2 == 1, n, ~n, static_cast<std::uint32_t>(n)}; }

}  // namespace

TEST_CASE("a published value is what was stored last") {
  Published<Value> value(of(1));
  CHECK(value.load().b == ~std::uint64_t{1});
  value.store(of(7));
  CHECK(value.load().a == 7);
  CHECK(value.load().flag);
}

TEST_CASE("readers get all of one value, and never an older one than before") {
  constexpr std::uint64_t kStores = 20'000;
  Published<Value> value(of(0));
  std::atomic<unsigned> torn{0};
  std::atomic<unsigned> back{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      for (std::uint64_t last = 0; last != kStores;) {
        const Value seen = value.load();
        if (seen.b != ~seen.a || seen.c != seen.a || seen.flag != (seen.a % 2 == 1)) ++torn;
        if (seen.a < last) ++back;
        last = seen.a;
      }
    });
  }
  for (std::uint64_t n = 1; n <= kStores; ++n) value.store(of(n));
  for (std::thread& reader : readers) reader.join();
  CHECK(torn == 0);
  CHECK(back == 0);
}
