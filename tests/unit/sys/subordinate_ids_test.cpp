// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/subordinate_ids.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "temp_dir.hpp"

using namespace ramfold;
using ramfold::sys::SubordinateIds;

TEST_CASE("all ids of one name are one account, and other ids their own") {
  const TempDir dir;
  dir.write("subuid",
            "# comment\n\nann:100000:65536\nbob:165536:65536\nann:900000:10\n"
            "bad:x:1\nbad:5\nnone:7:0\nlast:4294967290:100\n");
  SubordinateIds ids(dir / "subuid");
  CHECK(ids.account_of(1000) == 1000);
  CHECK(ids.account_of(99'999) == 99'999);
  CHECK(ids.account_of(100'000) == 100'000);
  CHECK(ids.account_of(165'535) == 100'000);
  CHECK(ids.account_of(900'009) == 100'000);
  CHECK(ids.account_of(900'010) == 900'010);
  CHECK(ids.account_of(165'536) == 165'536);
  CHECK(ids.account_of(200'000) == 165'536);
  CHECK(ids.account_of(4'294'967'295) == 4'294'967'290);
  const auto all = ids.ids_of(100'000);
  const auto has = [&](uid_t uid) {
    return std::ranges::any_of(all, [uid](const sys::IdRange& r) { return r.has(uid); });
  };
  CHECK((has(100'000) && has(165'535) && has(900'009) && !has(165'536) && !has(1000)));
  CHECK(ids.ids_of(1000).size() == 1);
  CHECK(ids.account_of(5) == 5);
  CHECK(ids.account_of(7) == 7);
}

TEST_CASE("a file that is not there has no ranges, and one that changes is read again") {
  const TempDir dir;
  SubordinateIds ids(dir / "subuid");
  CHECK(ids.account_of(100'001) == 100'001);
  dir.write("subuid", "ann:100000:65536\n");
  CHECK(ids.account_of(100'001) == 100'000);
  dir.write("subuid", "ann:100000:1\nbob:100001:1000\n");
  CHECK(ids.account_of(100'001) == 100'001);
  CHECK(ids.account_of(100'002) == 100'001);
}
