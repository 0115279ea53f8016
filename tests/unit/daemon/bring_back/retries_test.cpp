// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/bring_back/retries.hpp"

#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/owner_share.hpp"
#include "patience.hpp"
#include "unit/temp_dir.hpp"

using namespace ramfold;
using daemon::Retries;
using test::soon;

namespace {

constexpr std::uint64_t kMs = 1'000'000;

}  // namespace

TEST_CASE("retries: what holds at once is done once, and ended") {
  Retries retries;
  REQUIRE(retries.begin().has_value());
  std::atomic<int> attempts{0};
  std::atomic<int> ended{0};
  retries.add({"a", Retries::kHost,
               [&]() -> Status {
                 ++attempts;
                 return {};
               },
               nullptr, [&](bool held) { ended += held ? 1 : 100; }, 0});
  CHECK(soon([&] { return ended == 1; }));
  CHECK(attempts == 1);
  CHECK_FALSE(retries.trouble("a").has_value());
}

TEST_CASE("retries: pauses grow to a bound, the trouble is told, and goes when it holds") {
  Retries retries({5 * kMs, 40 * kMs});
  REQUIRE(retries.begin().has_value());
  std::atomic<bool> good{false};
  std::atomic<int> ended{0};
  std::vector<std::uint64_t> times;
  retries.add({"a", Retries::kHost,
               [&]() -> Status {
                 if (good) return {};
                 times.push_back(monotonic_ns());
                 return fail("no room", ENOMEM);
               },
               nullptr, [&](bool held) { ended += held ? 1 : 100; }, 0});
  CHECK(soon([&] {
    const auto t = retries.trouble("a");
    return t && t->attempts >= 6;
  }));
  const auto trouble = retries.trouble("a");
  REQUIRE(trouble.has_value());
  CHECK(trouble->why.find("no room") != std::string::npos);
  CHECK(trouble->next_seconds <= 0.04);
  CHECK_FALSE(retries.trouble("b").has_value());
  good = true;
  CHECK(soon([&] { return ended == 1; }));
  CHECK_FALSE(retries.trouble("a").has_value());
  REQUIRE(times.size() >= 6);
  const std::uint64_t expected[] = {5 * kMs, 10 * kMs, 20 * kMs, 40 * kMs, 40 * kMs};
  for (std::size_t i = 0; i < std::size(expected); ++i)
    CHECK(times[i + 1] - times[i] >= expected[i]);
}

TEST_CASE("retries: one that fails does not hold up another") {
  Retries retries({5 * kMs, 5 * kMs});
  REQUIRE(retries.begin().has_value());
  std::atomic<int> ended{0};
  retries.add({"a", Retries::kHost, [] { return Status(fail("never")); }, nullptr, nullptr, 0});
  for (int i = 0; i < 20; ++i)
    retries.add({"b", Retries::kHost, [] { return Status{}; }, nullptr, [&](bool) { ++ended; }, 0});
  CHECK(soon([&] { return ended == 20; }));
  CHECK(soon([&] { return retries.trouble("a").has_value(); }));
}

TEST_CASE("retries: one that takes long does not make another late, but one of its own name") {
  std::atomic<bool> go_on{false};
  std::atomic<int> ended{0};
  std::atomic<int> of_same_name{0};
  Retries retries;
  REQUIRE(retries.begin().has_value());
  retries.add({"a", Retries::kHost,
               [&]() -> Status {
                 while (!go_on) ::usleep(1000);
                 return {};
               },
               nullptr, [&](bool) { ++ended; }, 0});
  retries.add({"a", Retries::kHost,
               [&]() -> Status {
                 ++of_same_name;
                 return {};
               },
               nullptr, [&](bool) { ++ended; }, 0});
  std::atomic<int> others{0};
  retries.add({"b", Retries::kHost, [] { return Status{}; }, nullptr, [&](bool) { ++others; }, 0});
  CHECK(soon([&] { return others == 1; }));
  CHECK(of_same_name == 0);
  CHECK(ended == 0);
  go_on = true;
  CHECK(soon([&] { return ended == 2; }));
  CHECK(of_same_name == 1);
}

TEST_CASE("retries: an owner whose tasks take long leaves places to other owners and to the host") {
  const TempDir dir;
  std::ofstream(dir / "subuid") << "one:100000:1000\n";
  constexpr uid_t kFirst = 100'000;
  constexpr uid_t kSecond = 200'000;
  constexpr unsigned kMost = OwnerShare(Retries::kAtOnceMax, OwnerShare::kHalf).most(0);
  std::atomic<bool> go_on{false};
  std::atomic<unsigned> ended{0};
  std::atomic<unsigned> slow{0};
  Retries retries({5 * kMs, 5 * kMs}, sys::SubordinateIds(dir / "subuid"));
  REQUIRE(retries.begin().has_value());
  for (unsigned i = 0; i < Retries::kAtOnceMax; ++i) {
    retries.add({std::to_string(i), kFirst + i,
                 [&]() -> Status {
                   ++slow;
                   while (!go_on) ::usleep(1000);
                   return {};
                 },
                 nullptr, [&](bool) { ++ended; }, 0});
  }
  CHECK(soon([&] { return slow == kMost; }));
  std::atomic<unsigned> others{0};
  for (const std::optional<uid_t> owner : {std::optional(kSecond), std::optional<uid_t>()}) {
    retries.add({"other", owner, [] { return Status{}; }, nullptr, [&](bool) { ++others; }, 0});
  }
  CHECK(soon([&] { return others == 2; }));
  CHECK(slow == kMost);
  CHECK(ended == 0);
  go_on = true;
  CHECK(soon([&] { return ended == Retries::kAtOnceMax; }));
}

TEST_CASE("retries: owners that have all places do not delay the host's own task") {
  std::atomic<bool> go_on{false};
  std::atomic<unsigned> slow{0};
  std::atomic<unsigned> ended{0};
  Retries retries;
  REQUIRE(retries.begin().has_value());
  for (uid_t owner = 1; owner <= Retries::kAtOnceMax + 1; ++owner) {
    retries.add({std::to_string(owner), owner,
                 [&]() -> Status {
                   ++slow;
                   while (!go_on) ::usleep(1000);
                   return {};
                 },
                 nullptr, [&](bool) { ++ended; }, 0});
  }
  CHECK(soon([&] { return slow == Retries::kAtOnceMax; }));
  std::atomic<bool> done{false};
  retries.add(
      {"off", Retries::kHost, [] { return Status{}; }, nullptr, [&](bool) { done = true; }, 0});
  CHECK(soon([&] { return done.load(); }));
  CHECK(slow == Retries::kAtOnceMax);
  go_on = true;
  CHECK(soon([&] { return ended == Retries::kAtOnceMax + 1; }));
}

TEST_CASE("retries: given up after its time, or when nobody wants it any more") {
  Retries retries({kMs, 2 * kMs});
  REQUIRE(retries.begin().has_value());
  std::atomic<int> given_up{0};
  retries.add({"a", Retries::kHost, [] { return Status(fail("never")); }, nullptr,
               [&](bool held) { given_up += held ? 100 : 1; }, 50 * kMs});
  std::atomic<bool> wanted{true};
  std::atomic<int> attempts{0};
  retries.add({"b", Retries::kHost,
               [&] {
                 ++attempts;
                 return Status(fail("never"));
               },
               [&] { return wanted.load(); }, [&](bool held) { given_up += held ? 100 : 1; }, 0});
  CHECK(soon([&] { return given_up == 1; }));
  CHECK_FALSE(retries.trouble("a").has_value());
  CHECK(soon([&] { return attempts > 0; }));
  wanted = false;
  CHECK(soon([&] { return given_up == 2; }));
  const int then = attempts;
  ::usleep(20'000);
  CHECK(attempts == then);
}

TEST_CASE("retries: a stop waits for the one under way and drops the rest") {
  std::atomic<bool> running{false};
  std::atomic<bool> done{false};
  std::atomic<int> others{0};
  {
    Retries retries;
    REQUIRE(retries.begin().has_value());
    retries.add({"a", Retries::kHost,
                 [&]() -> Status {
                   running = true;
                   ::usleep(50'000);
                   done = true;
                   return fail("no");
                 },
                 nullptr, nullptr, 0});
    CHECK(soon([&] { return running.load(); }));
    retries.add({"a", Retries::kHost,
                 [&]() -> Status {
                   ++others;
                   return {};
                 },
                 nullptr, nullptr, 0});
  }
  CHECK(done);
  CHECK(others == 0);
}
