// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/fleet/told_reason.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using daemon::ToldReason;
using guest::Reason;
using guest::ReasonCode;

namespace {

constexpr std::uint64_t kBegin = std::uint64_t{1} << 50;
constexpr std::uint64_t kSettle = ToldReason::kSettleNs;

const Reason kIncoming{ReasonCode::incoming_migration, "started with -incoming", ""};
const Reason kDevice{ReasonCode::unknown_descriptor, "device x", ""};
const Reason kOtherDevice{ReasonCode::unknown_descriptor, "device y", ""};
const Reason kLost{ReasonCode::lost_pages, "3 pages", ""};

}  // namespace

TEST_CASE("a reason that has stood for a while is told once, and its end once") {
  ToldReason told;
  std::uint64_t now = kBegin;
  CHECK_FALSE(told.opened(now));
  CHECK_FALSE(told.closed(kIncoming, kSettle, now));
  CHECK_FALSE(told.closed(kIncoming, kSettle, now + kSettle - 1));
  now += kSettle;
  CHECK(told.closed(kIncoming, kSettle, now));
  CHECK_FALSE(told.closed(kIncoming, kSettle, now + 1));
  CHECK_FALSE(told.closed(kIncoming, kSettle, now + 100 * kSettle));
  now += 200 * kSettle;
  CHECK(told.opened(now));
  CHECK_FALSE(told.opened(now + 1));
}

TEST_CASE("another reason is told, a reason that comes and goes is not") {
  ToldReason told;
  CHECK(told.closed(kDevice, 0, kBegin));
  std::uint64_t now = kBegin + 1;
  CHECK_FALSE(told.closed(kOtherDevice, kSettle, now));
  CHECK_FALSE(told.closed(kDevice, kSettle, ++now));
  CHECK_FALSE(told.closed(kDevice, kSettle, now += 2 * kSettle));  // it was told
  CHECK_FALSE(told.closed(kOtherDevice, kSettle, ++now));
  CHECK(told.closed(kOtherDevice, kSettle, now += kSettle));
}

TEST_CASE("a reason that has a line elsewhere gets none, and neither does its end") {
  ToldReason told;
  told.closed_and_told(kLost);
  CHECK_FALSE(told.closed(kLost, 0, kBegin));
  CHECK_FALSE(told.opened(kBegin + 1));
  // What was told before that gets its end all the same.
  CHECK(told.closed(kIncoming, 0, kBegin + 2));
  told.closed_and_told(kLost);
  CHECK(told.opened(kBegin + 3));
}

TEST_CASE("a VM whose reasons change all the time gets few lines, and the last state is told") {
  ToldReason told;
  std::uint64_t now = kBegin;
  unsigned lines = 0;
  const std::uint64_t end = kBegin + ToldReason::kPeriodNs;
  for (; now < end; now += 2 * kSettle) {
    lines += told.closed(kDevice, 0, now) ? 1 : 0;
    lines += told.opened(now + kSettle) ? 1 : 0;
  }
  CHECK(lines == ToldReason::kLinesMax);
  CHECK(told.closed(kIncoming, 0, now));
  CHECK_FALSE(told.closed(kIncoming, 0, now + 1));
}
