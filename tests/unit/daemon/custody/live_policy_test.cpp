// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/live_policy.hpp"

#include <catch2/catch.hpp>

#include "daemon/custody/policy_change.hpp"
#include "daemon/report/policy_views.hpp"
#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using control::Failure;

namespace {

const VmKey kWeb{"web", "", 107, std::nullopt};
using Words = std::vector<std::string>;

// A daemon's policy over a file and a state directory.
class Daemon {
 public:
  explicit Daemon(const TempDir& dir, const char* file = nullptr) : dir_(dir) {
    if (file != nullptr) write(file);
    decisions_ = std::make_unique<Decisions>(dir.path(), "boot");
    decisions_->load();
    policy_ = std::make_unique<LivePolicy>(
        load_configuration({dir / "r.toml", true, "", dir.path()}), *decisions_, vms_);
    policy_->begin();
    policy_->apply_with([this](const policy::Config& config) { applied.push_back(config); });
  }
  void write(const char* text) { dir_.write("r.toml", text); }
  LivePolicy& operator*() { return *policy_; }
  LivePolicy* operator->() { return policy_.get(); }
  std::string where(unsigned line) const { return dir_ / "r.toml:" + std::to_string(line); }
  control::PolicyKeyView row(std::string_view key) {
    for (control::PolicyKeyView& row : policy_view(*policy_).keys) {
      if (row.key == key) return std::move(row);
    }
    FAIL(key);
    return {};
  }
  std::vector<policy::Config> applied;

 private:
  const TempDir& dir_;
  VmSet vms_;
  std::unique_ptr<Decisions> decisions_;
  std::unique_ptr<LivePolicy> policy_;
};

}  // namespace

TEST_CASE("a file that is read anew is handed on, but for keys of a start, which are told") {
  const TempDir dir;
  Daemon daemon(dir, "[fold]\npasses = 1\n");
  daemon.write("# new\nruntime_dir = \"/run/mine\"\n[fold]\npasses = 3\n");
  CHECK_FALSE(daemon->reload());
  REQUIRE(daemon.applied.size() == 1);
  CHECK(daemon.applied[0].fold.passes == 3);
  CHECK(daemon.applied[0].runtime_dir == "/run/ramfold");
  CHECK(*daemon->config() == daemon.applied[0]);
  REQUIRE(daemon->notices().size() == 1);
  CHECK(daemon->notices()[0].code == "next-start");
  CHECK(daemon->notices()[0].text.starts_with(daemon.where(2) +
                                              ": runtime_dir changes at the next start"));
  CHECK(daemon.row("runtime_dir").pending == "/run/mine");
  CHECK(daemon.row("fold.passes").origin == control::PolicyOrigin::file);
  daemon.write("");
  CHECK_FALSE(daemon->reload());
  CHECK(daemon->notices().empty());
  CHECK(daemon.row("fold.passes").in_force == "2");
  CHECK(daemon.row("fold.passes").origin == control::PolicyOrigin::preset);
}

TEST_CASE("a broken file changes nothing, and file and line are told") {
  const TempDir dir;
  Daemon daemon(dir, "[fold]\npasses = 1\n");
  daemon.write("[fold]\npasses = 3\nlz4 = 7\n");
  CHECK_FALSE(daemon->reload());
  CHECK(daemon.applied.empty());
  CHECK(daemon->config()->fold.passes == 1);
  REQUIRE(daemon->notices().size() == 1);
  CHECK(daemon->notices()[0].code == "config");
  CHECK(daemon->notices()[0].text.find(daemon.where(3) + ": fold.lz4") != std::string::npos);
  CHECK_FALSE(daemon->reload());
  CHECK(daemon->notices().size() == 1);
  // The last good one is still that before.
  CHECK(load_configuration({dir / "r.toml", true, "", dir.path()}).config.fold.passes == 1);
}

TEST_CASE("a daemon without a configuration gets one when the file is mended") {
  const TempDir dir;
  Daemon daemon(dir, "[fold]\npasses = 99\n");
  REQUIRE(daemon->broken());
  CHECK_FALSE(daemon->reload());
  CHECK(daemon->broken());
  daemon.write("[fold]\npasses = 9\n");
  CHECK(daemon->reload());
  CHECK_FALSE(daemon->broken());
  CHECK(daemon->config()->fold.passes == 9);
}

TEST_CASE("several assignments are carried out all or not at all") {
  const TempDir dir;
  Daemon daemon(dir, "");
  const auto refused = [&](const std::optional<VmKey>& vm, Words words) {
    const auto done = daemon->set(vm, words);
    REQUIRE_FALSE(done.has_value());
    CHECK(done.error().failure == Failure::bad_request);
    CHECK_FALSE(done.error().remedy.empty());
    return done.error().text;
  };
  CHECK(refused({}, {"fold.lz4=false", "fold.passes=99"}) == "fold.passes: 99 is not allowed");
  CHECK(refused({}, {"fold.lz4=false", "colour=red"}) == "colour: unknown key");
  CHECK(refused({}, {"fold.lz4=false", "fold.passes"}) == "fold.passes: it is no assignment");
  CHECK(refused({}, {"fold.lz4=false", "=1"}) == "=1: it is no assignment");
  CHECK(refused({}, {"fold.lz4=" + std::string(99, 'x')}).ends_with("it is no assignment"));
  CHECK(refused({}, {"fold.lz4=false", "fold.lz4=true"}) == "fold.lz4: it is given twice");
  CHECK(refused({}, {"fold.lz4=false", "state_dir=/x"})
            .starts_with("state_dir: it changes only at a start"));
  CHECK(refused({}, {"fold.lz4=false", "scan.cpu=2"}).starts_with("scan.cpu: 2 cores need"));
  CHECK(refused(kWeb, {"lz4=false", "group=a/b"}).starts_with("group: a/b is not allowed"));
  CHECK(refused(kWeb, {"lz4=false", "name=db"}).starts_with("name: it names a VM"));
  CHECK(refused(kWeb, {"lz4=false", "colour="}) == "colour: unknown key");
  CHECK(daemon.applied.empty());
  CHECK(daemon->origin()->set.empty());
  CHECK(daemon->set({}, Words{"scan.cpu=2", "scan.threads=2"}).has_value());
  CHECK(daemon->config()->scan.cpu == 2);
}

TEST_CASE("assignments are undone by others") {
  const TempDir dir;
  Daemon daemon(dir, "[fold]\nlz4 = false\n");
  REQUIRE(daemon->set(kWeb, Words{"lz4=true", "passes=3"}).has_value());
  const Words wanted{"group=blue", "passes=4", "lz4="};
  const auto before = daemon->origin()->set;
  const Words back = taking_back(before, kWeb, wanted);
  CHECK(back == Words{"group=", "passes=3", "lz4=true"});
  CHECK(may_change_group(wanted));
  CHECK(may_change_group(Words{"share=true"}));
  CHECK_FALSE(may_change_group(Words{"lz4=group", "passes=3"}));
  REQUIRE(daemon->set(kWeb, wanted).has_value());
  const policy::VmClaim web{"web", "", 107, policy::Vouched::no};
  CHECK(policy::vm_group(*daemon->config(), web) == "blue");
  REQUIRE(daemon->set(kWeb, back).has_value());
  CHECK_FALSE(policy::vm_group(*daemon->config(), web));
  CHECK(policy::vm_targets(*daemon->config(), web).passes == 3);
  CHECK(policy::vm_targets(*daemon->config(), web).lz4);
}

TEST_CASE("what was set wins over the file, outlives the daemon, and is taken back") {
  const TempDir dir;
  {
    Daemon daemon(dir, "[fold]\nlz4 = false\n");
    REQUIRE(daemon->set({}, Words{"fold.lz4=true", "fold.when=eager"}).has_value());
    REQUIRE(daemon->set(kWeb, Words{"lz4=false", "zero=false"}).has_value());
    daemon.write("[fold]\nlz4 = false\npasses = 3\n");
    CHECK_FALSE(daemon->reload());
    CHECK(daemon->config()->fold.lz4);
    CHECK(daemon->config()->fold.passes == 3);
  }
  Daemon daemon(dir);
  CHECK(daemon.row("fold.lz4").in_force == "true");
  CHECK(daemon.row("fold.lz4").origin == control::PolicyOrigin::set);
  const policy::VmClaim web{"web", "", 107, policy::Vouched::no};
  const policy::VmTargets targets = policy::vm_targets(*daemon->config(), web);
  CHECK_FALSE(targets.zero);
  CHECK_FALSE(targets.lz4);
  CHECK(targets.share);
  CHECK(targets.passes == 3);
  CHECK(targets.when == policy::FoldWhen::eager);
  REQUIRE(daemon->set({}, Words{"fold.lz4="}).has_value());
  CHECK_FALSE(daemon->config()->fold.lz4);
  CHECK(daemon->config()->fold.when == policy::FoldWhen::eager);
  REQUIRE(daemon->set(kWeb, Words{"zero="}).has_value());
  CHECK(policy::vm_targets(*daemon->config(), web).zero);
  CHECK(daemon->take_back("db", Words{"lz4="}) == control::Answer<bool>(false));
  CHECK(daemon->take_back("web", Words{"lz4=", "fold=true"}) == control::Answer<bool>(false));
  CHECK(daemon->take_back("web", Words{"lz4="}) == control::Answer<bool>(true));
  CHECK(daemon->config()->vms.empty());
}

TEST_CASE("a value that the new file contradicts does not hold, and that is told") {
  const TempDir dir;
  Daemon daemon(dir, "[scan]\nthreads = 4\n");
  REQUIRE(daemon->set({}, Words{"scan.cpu=3"}).has_value());
  daemon.write("");
  CHECK_FALSE(daemon->reload());
  CHECK(daemon->config()->scan == policy::ScanConfig{});
  REQUIRE(daemon->notices().size() == 1);
  CHECK(daemon->notices()[0].code == "policy");
  CHECK(daemon->notices()[0].remedy.find("`ramfold policy set scan.cpu=`") != std::string::npos);
  // Other keys can be set all the same.
  CHECK(daemon->set({}, Words{"fold.passes=3"}).has_value());
  CHECK(daemon->set({}, Words{"scan.cpu="}).has_value());
  CHECK(daemon->notices().empty());
}
