// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/durable_file.hpp"

#include <sys/stat.h>
#include <catch2/catch.hpp>

#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::sys;

TEST_CASE("a file is replaced as a whole, in a directory that is made for it") {
  const TempDir dir;
  const std::string state = dir / "state";
  REQUIRE(replace_file(state, "x", "one"));
  REQUIRE(replace_file(state, "x", "two, longer"));
  CHECK(read_small_file(state + "/x", 100)->value() == "two, longer");
  REQUIRE(replace_file(state, "x", ""));
  CHECK(read_small_file(state + "/x", 100)->value().empty());
  CHECK_FALSE(read_small_file(state + "/x.new", 100)->has_value());
  struct stat st{};
  REQUIRE(::stat((state + "/x").c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  REQUIRE(::stat(state.c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0700);
}

TEST_CASE("what cannot be replaced stays as it was") {
  const TempDir dir;
  REQUIRE(replace_file(dir.path(), "x", "one"));
  REQUIRE(::mkdir((dir / "x.new").c_str(), 0700) == 0);
  CHECK(replace_file(dir.path(), "x", "two").error().code == EISDIR);
  CHECK(read_small_file(dir / "x", 100)->value() == "one");
  CHECK(replace_file(dir / "no/such", "x", "two").error().code == ENOENT);
  // A link in the place of the temporary file is not followed.
  std::filesystem::remove(dir / "x.new");
  dir.write("victim", "mine");
  std::filesystem::create_symlink(dir / "victim", dir / "x.new");
  CHECK_FALSE(replace_file(dir.path(), "x", "two"));
  CHECK(read_small_file(dir / "victim", 100)->value() == "mine");
}

TEST_CASE("a missing file is none, and one that is too long an error") {
  const TempDir dir;
  CHECK_FALSE(read_small_file(dir / "x", 10)->has_value());
  dir.write("x", "0123456789");
  CHECK(read_small_file(dir / "x", 10)->value() == "0123456789");
  CHECK(read_small_file(dir / "x", 9).error().code == EFBIG);
  CHECK_FALSE(read_small_file(dir.path(), 10).has_value());
}
