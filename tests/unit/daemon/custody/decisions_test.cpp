// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/decisions.hpp"

#include <sys/stat.h>
#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>

#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

namespace {

constexpr const char* kBoot = "boot-1";
constexpr const char* kUuid = "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4c";

const VmKey kWeb{"web", "", 107, std::nullopt};

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::unique_ptr<Decisions> loaded(const TempDir& dir, const char* boot = kBoot) {
  auto decisions = std::make_unique<Decisions>(dir.path(), boot);
  decisions->load();
  return decisions;
}

bool has(const Decisions& decisions, VmDecision what, const VmKey& vm) {
  return decisions.since(what, vm).has_value();
}

// A directory in the place of the file that a write begins with.
class Unwritable {
 public:
  explicit Unwritable(const TempDir& dir) : path_(dir / "decisions.new") {
    REQUIRE(::mkdir(path_.c_str(), 0700) == 0);
  }
  ~Unwritable() { std::filesystem::remove(path_); }

 private:
  std::string path_;
};

}  // namespace

TEST_CASE("without a file nothing is decided") {
  const TempDir dir;
  const auto decisions = loaded(dir);
  CHECK_FALSE(decisions->unreadable());
  CHECK_FALSE(decisions->since(HostDecision::off));
  CHECK_FALSE(has(*decisions, VmDecision::paused, kWeb));
}

TEST_CASE("what is decided is on the disk before the call returns, until it is taken back") {
  const TempDir dir;
  const auto decisions = loaded(dir);
  REQUIRE(decisions->decide(HostDecision::off));
  REQUIRE(decisions->decide(HostDecision::paused));
  REQUIRE(decisions->decide(VmDecision::paused, kWeb));
  REQUIRE(decisions->decide(VmDecision::detached, {"a b%\n", kUuid, 0, std::nullopt}));
  {
    const auto next = loaded(dir, "boot-2");
    CHECK(next->since(HostDecision::off) == decisions->since(HostDecision::off));
    CHECK(next->since(HostDecision::paused));
    CHECK(has(*next, VmDecision::paused, kWeb));
    CHECK_FALSE(has(*next, VmDecision::detached, kWeb));
    CHECK(has(*next, VmDecision::detached, {"renamed", kUuid, 0, std::nullopt}));
    CHECK(has(*next, VmDecision::detached, {"a b%\n", "", 0, std::nullopt}));
  }
  REQUIRE(decisions->take_back_host());
  REQUIRE(*decisions->take_back(VmDecision::paused, kWeb));
  CHECK_FALSE(*decisions->take_back(VmDecision::paused, kWeb));
  CHECK(*decisions->take_back(VmDecision::detached, kUuid));
  const auto last = loaded(dir);
  CHECK_FALSE(last->since(HostDecision::off));
  CHECK_FALSE(last->since(HostDecision::paused));
  CHECK_FALSE(has(*last, VmDecision::paused, kWeb));
  CHECK_FALSE(has(*last, VmDecision::detached, {"x", kUuid, 0, std::nullopt}));
}

TEST_CASE("a VM is known again by owner and uuid, by its name without one, or by its process") {
  const Decisions decisions("/nowhere", kBoot);
  CHECK(kWeb.is({"web", kUuid, 107, std::nullopt}));
  CHECK_FALSE(kWeb.is({"web", "", 108, std::nullopt}));
  CHECK_FALSE(VmKey{"web", kUuid, 107, {}}.is(
      {"web", "8d1b3a54-6c2e-4f0a-9b7d-0c5e2f1a3b4d", 107, std::nullopt}));
  const VmKey nameless = decisions.key_of("qemu-12", "", 107, 12, 34);
  CHECK(nameless.is(decisions.key_of("qemu-12", "", 107, 12, 34)));
  CHECK_FALSE(nameless.is(decisions.key_of("qemu-12", "", 107, 12, 35)));
  CHECK_FALSE(nameless.is({"qemu-12", "", 107, std::nullopt}));
  CHECK_FALSE(decisions.key_of("qemu-13", "", 107, 12, 34).process);
  CHECK_FALSE(decisions.key_of("qemu-12", kUuid, 107, 12, 34).process);
}

TEST_CASE("a decision about a process lasts as long as the host's uptime") {
  const TempDir dir;
  const auto decisions = loaded(dir);
  const VmKey key = decisions->key_of("qemu-12", "", 107, 12, 34);
  REQUIRE(decisions->decide(VmDecision::paused, key));
  CHECK(has(*loaded(dir), VmDecision::paused, key));
  const auto rebooted = loaded(dir, "boot-2");
  CHECK_FALSE(has(*rebooted, VmDecision::paused, key));
  CHECK_FALSE(has(*rebooted, VmDecision::paused, rebooted->key_of("qemu-12", "", 107, 12, 34)));
}

TEST_CASE("a torn or damaged file is told, at every byte") {
  DecisionBook book;
  book.off = 1764487258;
  book.vms.push_back({VmDecision::paused, 7, kWeb});
  book.vms.push_back({VmDecision::detached, 8, {"qemu-1", "", 0, VmKey::Process{1, 2, kBoot}}});
  const std::string whole = text_of(book);
  const auto again = read_decisions(whole);
  REQUIRE(again.has_value());
  CHECK(text_of(*again) == whole);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut after " << size);
    CHECK_FALSE(read_decisions(std::string_view(whole).substr(0, size)).has_value());
  }
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << bit));
      INFO("bit " << bit << " of byte " << i);
      CHECK_FALSE(read_decisions(damaged).has_value());
    }
  }
  CHECK_FALSE(read_decisions(whole + "\n").has_value());
  CHECK_FALSE(read_decisions("ramfold-decisions 2\nend 0\n").has_value());
}

TEST_CASE("a file that cannot be read is left alone until the operator begins anew") {
  const TempDir dir;
  dir.write("decisions", "ramfold-decisions 1\noff 12\n");
  const auto decisions = loaded(dir);
  REQUIRE(decisions->unreadable());
  CHECK(decisions->unreadable()->find(dir / "decisions") != std::string::npos);
  CHECK_FALSE(decisions->decide(VmDecision::paused, kWeb));
  CHECK(has(*decisions, VmDecision::paused, kWeb));  // all the same
  CHECK_FALSE(decisions->write_again());
  CHECK(content(dir / "decisions") == "ramfold-decisions 1\noff 12\n");
  REQUIRE(decisions->begin_anew());
  CHECK_FALSE(decisions->unreadable());
  CHECK(content(dir / "decisions.unreadable") == "ramfold-decisions 1\noff 12\n");
  REQUIRE(decisions->decide(HostDecision::paused));
  CHECK(loaded(dir)->since(HostDecision::paused));
}

TEST_CASE("what stops holds though it cannot be written; what goes on again waits for that") {
  const TempDir dir;
  const auto decisions = loaded(dir);
  REQUIRE(decisions->decide(VmDecision::detached, kWeb));
  {
    const Unwritable unwritable(dir);
    CHECK_FALSE(decisions->decide(HostDecision::off));
    CHECK(decisions->since(HostDecision::off));
    CHECK(decisions->unsaved());
    CHECK_FALSE(decisions->write_again());
    CHECK_FALSE(decisions->take_back(VmDecision::detached, kWeb).has_value());
    CHECK(has(*decisions, VmDecision::detached, kWeb));
    CHECK_FALSE(decisions->take_back_host());
    CHECK(decisions->since(HostDecision::off));
    CHECK_FALSE(loaded(dir)->since(HostDecision::off));
  }
  CHECK(decisions->write_again());
  CHECK_FALSE(decisions->unsaved());
  CHECK(loaded(dir)->since(HostDecision::off));
  CHECK(has(*loaded(dir), VmDecision::detached, kWeb));
}

TEST_CASE("what a crash has left of a write is no decision, and in nobody's way") {
  const TempDir dir;
  REQUIRE(loaded(dir)->decide(HostDecision::off));
  dir.write("decisions.new", "ramfold-deci");
  const auto decisions = loaded(dir);
  CHECK(decisions->since(HostDecision::off));
  REQUIRE(decisions->take_back_host());
  CHECK_FALSE(loaded(dir)->since(HostDecision::off));
}

TEST_CASE(
    "the number of VMs that are decided about is bounded, and the file readable at the bound") {
  DecisionBook book;
  const std::string name(63, '\xff');
  for (std::size_t i = 0; i < kDecidedVmsMax; ++i) {
    book.vms.push_back({VmDecision::detached,
                        1764487258,
                        {name, kUuid, static_cast<std::uint32_t>(i), std::nullopt}});
  }
  const TempDir dir;
  dir.write("decisions", text_of(book));
  const auto decisions = loaded(dir);
  CHECK_FALSE(decisions->unreadable());
  CHECK(has(*decisions, VmDecision::detached, {"x", kUuid, kDecidedVmsMax - 1, std::nullopt}));
  const Status refused = decisions->decide(VmDecision::paused, kWeb);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ENOSPC);
  REQUIRE(*decisions->take_back(VmDecision::detached, kUuid));
  CHECK(decisions->decide(VmDecision::paused, kWeb));
}

TEST_CASE("values that were set outlive the daemon, and those of a process its boot does not") {
  const TempDir dir;
  const VmKey unnamed{"qemu-7", "", 107, VmKey::Process{7, 99, kBoot}};
  {
    const auto decisions = loaded(dir);
    REQUIRE(decisions->replace_set_values({{"host.reserve", "4 GiB=%", std::nullopt},
                                           {"lz4", "false", kWeb},
                                           {"fold", "false", unnamed}}));
  }
  const auto values = loaded(dir)->set_values();
  REQUIRE(values.size() == 3);
  CHECK(values[0].key == "host.reserve");
  CHECK(values[0].value == "4 GiB=%");
  CHECK_FALSE(values[0].vm);
  CHECK((values[1].vm && *values[1].vm == kWeb));
  CHECK((values[2].vm && *values[2].vm == unnamed));
  CHECK(loaded(dir, "boot-2")->set_values().size() == 2);
}

TEST_CASE("values that cannot be written leave those before in force") {
  const TempDir dir;
  const auto decisions = loaded(dir);
  REQUIRE(decisions->replace_set_values({{"fold.lz4", "false", std::nullopt}}));
  {
    const Unwritable no(dir);
    CHECK_FALSE(decisions->replace_set_values({}).has_value());
  }
  CHECK(decisions->set_values().size() == 1);
  std::vector<DecisionBook::Set> too_many(kSetValuesMax + 1, {"lz4", "false", kWeb});
  CHECK_FALSE(decisions->replace_set_values(std::move(too_many)).has_value());
}

TEST_CASE("a line of a value that is not whole makes the file unreadable") {
  for (const char* line : {"set fold.lz4\n", "set =1\n", "set a=b c\n", "set-vm lz4=false\n",
                           "set-vm lz4=false uid=1 uuid=\n"}) {
    INFO(line);
    const auto read = read_decisions(text_of(DecisionBook{}).insert(20, line));
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().what.find("does not know") != std::string::npos);
  }
}
