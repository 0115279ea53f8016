// SPDX-License-Identifier: GPL-2.0-or-later
// The descriptor store as the keeper sees it: a datagram socket that takes what it is given, and
// LISTEN_FDS at the next start. (systemd itself: tests/vm/keeper_systemd.sh.)
#include <sys/stat.h>
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <set>

#include "fake_manager.hpp"
#include "keeper_process.hpp"

using namespace ramfold;
using namespace ramfold::keeper;
using namespace ramfold::keeper::test;

namespace {

int code_of(const Status& status) { return status ? 0 : status.error().code; }

ino_t inode(const sys::Fd& fd) {
  struct stat st{};
  REQUIRE(::fstat(fd.get(), &st) == 0);
  return st.st_ino;
}

}  // namespace

TEST_CASE("what is kept is stored with systemd, and removed when it is dropped") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  KeeperProcess keeper(dir / "k", manager.passes());
  Client client = keeper.connect();
  CHECK(client.backed());
  Child vm;
  const sys::Fd ram = memfd();
  REQUIRE(code_of(client.keep("1.ram", ram)) == 0);
  REQUIRE(code_of(client.keep("1.ram", ram)) == 0);  // not stored twice
  REQUIRE(code_of(client.keep("2.ram", memfd())) == 0);
  REQUIRE(code_of(client.watch("1.", pidfd_of(vm.pid()))) == 0);
  CHECK(manager.names() == std::set<std::string>{"k.1.ram", "k.2.ram", "w.1."});
  CHECK(manager.ready);
  CHECK(inode(manager.stored["k.1.ram"]) == inode(ram));
  vm.kill();
  CHECK(eventually([&] { return manager.names() == std::set<std::string>{"k.2.ram"}; }));
  REQUIRE(code_of(client.drop("2.ram")) == 0);
  CHECK(manager.names().empty());
}

TEST_CASE("a name is free for another file after it was dropped, in the store too") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  KeeperProcess keeper(dir / "k", manager.passes());
  Client client = keeper.connect();
  const sys::Fd second = memfd();
  REQUIRE(code_of(client.keep("a", memfd())) == 0);
  REQUIRE(code_of(client.drop("a")) == 0);
  REQUIRE(code_of(client.keep("a", second)) == 0);
  manager.read_all();
  CHECK(inode(manager.stored["k.a"]) == inode(second));
}

TEST_CASE("a keeper that was killed comes back with the same set, watches at work") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  std::optional<KeeperProcess> keeper(std::in_place, dir / "k", manager.passes());
  std::map<std::string, ino_t> expected;
  Child vm;
  Token token;
  {
    Client client = keeper->connect();
    for (int i = 0; i < 300; ++i) {
      const sys::Fd fd = memfd();
      const std::string name = "7.f" + std::to_string(i);
      REQUIRE(code_of(client.keep(name, fd)) == 0);
      expected[name] = inode(fd);
      manager.read_all();
    }
    REQUIRE(code_of(client.keep("1.token", token.write_end)) == 0);
    REQUIRE(code_of(client.watch("1.", pidfd_of(vm.pid()))) == 0);
    token.write_end.reset();
  }
  for (int round = 0; round < 3; ++round) {
    manager.read_all();
    keeper->kill();
    REQUIRE(::unlink((dir / "k").c_str()) == 0);
    keeper.emplace(dir / "k", manager.passes());
    Client client = keeper->connect();
    const auto all = client.take_all();
    REQUIRE(all);
    REQUIRE(all->size() == 302);
    for (const Kept& kept : *all) {
      if (kept.name.starts_with("7.")) CHECK(inode(kept.fd) == expected[kept.name]);
    }
  }
  vm.kill();
  CHECK(
      eventually([&] { return manager.names().size() == 300; }));  // 1.token and its watch are gone
  CHECK(eventually([&] { return token.closed(); }));
}

TEST_CASE("a process that ended while there was no keeper is noticed at the next start") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  std::optional<KeeperProcess> keeper(std::in_place, dir / "k", manager.passes());
  Child vm;
  Token token;
  {
    Client client = keeper->connect();
    REQUIRE(code_of(client.keep("1.token", token.write_end)) == 0);
    REQUIRE(code_of(client.watch("1.", pidfd_of(vm.pid()))) == 0);
    token.write_end.reset();
  }
  manager.read_all();
  keeper->kill();
  vm.kill();
  REQUIRE(::unlink((dir / "k").c_str()) == 0);
  keeper.emplace(dir / "k", manager.passes());
  CHECK(keeper->connect().take_all()->empty());
  CHECK(eventually([&] { return manager.names().empty(); }));
  CHECK(eventually([&] { return token.closed(); }));
}

TEST_CASE("what an unknown keeper had stored stays open and untouched") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  Token token;
  manager.stored["x.from-a-newer-keeper"] = std::move(token.write_end);
  KeeperProcess keeper(dir / "k", manager.passes());
  manager.stored.begin()->second.reset();
  CHECK(keeper.connect().take_all()->empty());
  keeper.signal(SIGTERM);
  std::this_thread::sleep_for(50ms);
  CHECK(keeper.running());
  CHECK_FALSE(token.closed());
}

TEST_CASE("the control socket may come from the service manager") {
  const Directory dir;
  const std::string path = dir / "activated";
  const auto listener = sys::listen_seqpacket(path, 0600);
  REQUIRE(listener);
  FakeManager manager(dir / "notify");
  auto passes = manager.passes();
  passes.passed.emplace_back("keeper.socket", listener->get());
  KeeperProcess keeper(path, passes);
  CHECK(code_of(keeper.connect().keep("a", memfd())) == 0);
}

TEST_CASE("a service manager that does not read delays nobody for long and gets it all later") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  KeeperProcess keeper(dir / "k", manager.passes());
  Client client = keeper.connect();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 300; ++i)
    REQUIRE(code_of(client.keep("f" + std::to_string(i), memfd())) == 0);
  for (int i = 0; i < 300; i += 2) REQUIRE(code_of(client.drop("f" + std::to_string(i))) == 0);
  CHECK(std::chrono::steady_clock::now() - start < 5s);
  REQUIRE(code_of(client.keep("f0", memfd())) == 0);
  CHECK(eventually([&] { return manager.names().size() == 151; }));
}
