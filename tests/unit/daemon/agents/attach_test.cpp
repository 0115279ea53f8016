// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/attach.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;

TEST_CASE("a VM that declares far more RAM than the host has is refused") {
  constexpr PageCount kGiB{1u << 18};
  constexpr ByteCount kHost{std::uint64_t{8} << 30};
  const policy::HostConfig host;
  CHECK_FALSE(daemon::too_much_ram(host, PageCount{32 * kGiB.value}, kHost));
  const auto why = daemon::too_much_ram(host, PageCount{32 * kGiB.value + 1}, kHost);
  REQUIRE(why);
  CHECK(why->find("host.vm_ram_factor_max") != std::string::npos);
  CHECK(daemon::too_much_ram(host, PageCount{std::uint64_t{8} * 1024 * kGiB.value}, kHost));
}
