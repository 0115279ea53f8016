// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/configuration.hpp"

#include <sys/stat.h>
#include <catch2/catch.hpp>

#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

namespace {

// A configuration file and a state directory.
class Place {
 public:
  Configuration load(const std::string& text) {
    dir_.write("r.toml", text);
    return load_file();
  }
  Configuration load_file(const char* name = "r.toml") {
    return load_configuration({dir_ / name, true, "", state()});
  }
  std::string state() const { return dir_ / "state"; }
  std::string path(const char* name = "r.toml") const { return dir_ / name; }
  const TempDir& dir() const { return dir_; }

 private:
  TempDir dir_;
};

constexpr const char* kBroken = "[fold]\nwhen = \"allways\"\n";

}  // namespace

TEST_CASE("a valid configuration has nothing to be told") {
  Place place;
  const Configuration read = place.load("[fold]\nwhen = \"eager\"\n");
  CHECK(read.config.fold.when == policy::FoldWhen::eager);
  CHECK(read.config.state_dir == place.state());
  CHECK(read.problems.empty());
  CHECK_FALSE(read.broken);
  CHECK(read.notices.empty());
}

TEST_CASE("the first configuration is broken: nothing is folded, and what is valid of it is kept") {
  Place place;
  const Configuration read =
      place.load("runtime_dir = \"/run/mine\"\ncontrol_group = \"kvm\"\n[fold]\npases = 2\n");
  REQUIRE(read.broken);
  CHECK(read.broken->code == "config");
  CHECK(read.broken->text.find(place.path() + ":4: fold.pases: unknown key") != std::string::npos);
  CHECK(read.broken->remedy.find("systemctl reload ramfold") != std::string::npos);
  CHECK(read.config.runtime_dir == "/run/mine");
  CHECK(read.config.control_group == "kvm");
}

TEST_CASE("a configuration that breaks is replaced by the last good one") {
  Place place;
  (void)place.load("runtime_dir = \"/run/mine\"\n[fold]\nwhen = \"eager\"\n");
  for (const char* text : {kBroken, "runtime_dir = = 1\n"}) {
    const Configuration read = place.load(text);
    CHECK_FALSE(read.broken);
    CHECK(read.config.fold.when == policy::FoldWhen::eager);
    CHECK(read.config.runtime_dir == "/run/mine");
    CHECK(read.problems.size() == 1);
    REQUIRE(read.notices.size() == 1);
    CHECK(read.notices[0].code == "config");
    CHECK(read.notices[0].text.find(read.problems[0]) != std::string::npos);
    CHECK(read.notices[0].text.find("broken since 20") != std::string::npos);
  }
  // Mended, it is the next good one.
  CHECK(place.load("").notices.empty());
  CHECK(place.load(kBroken).config.fold.when == policy::FoldWhen::pressure);
}

TEST_CASE("a file that cannot be read is broken, and one that nobody named may be missing") {
  Place place;
  CHECK(place.load_file().broken);
  REQUIRE(::mkdir(place.path("folder").c_str(), 0700) == 0);
  CHECK(place.load_file("folder").broken);
  const Configuration missing = load_configuration({place.path(), false, "", place.state()});
  CHECK(missing.problems.empty());
  CHECK_FALSE(missing.broken);
}

TEST_CASE("the last good configuration of another file is not taken") {
  Place place;
  (void)place.load("[fold]\nwhen = \"eager\"\n");
  place.dir().write("other.toml", kBroken);
  CHECK(place.load_file("other.toml").broken);
}

TEST_CASE("a copy that is torn or damaged is none") {
  Place place;
  (void)place.load("[fold]\nwhen = \"eager\"\n");
  const std::string copy = place.state() + "/ramfold.toml.good";
  const auto size = std::filesystem::file_size(copy);
  for (std::uintmax_t cut = 1; cut <= size; ++cut) {
    INFO(cut);
    (void)place.load("[fold]\nwhen = \"eager\"\n");
    std::filesystem::resize_file(copy, std::filesystem::file_size(copy) - cut);
    CHECK(place.load(kBroken).broken);
  }
}

TEST_CASE("a part of an override that does not hold is a notice") {
  Place place;
  const Configuration read = place.load("[[vm]]\nname = \"web\"\ngroup = \"blue\"\n");
  CHECK_FALSE(read.broken);
  REQUIRE(read.notices.size() == 1);
  CHECK(read.notices[0].code == "vm-override");
  CHECK(read.notices[0].text.starts_with(place.path() + ":1: [[vm]] 'web': group does not hold"));
}

TEST_CASE("that no copy can be kept is a notice") {
  Place place;
  place.dir().write("state", "a file in the place of the directory");
  const Configuration read = place.load("");
  CHECK_FALSE(read.broken);
  REQUIRE(read.notices.size() == 1);
  CHECK(read.notices[0].code == "state");
}
