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
  // Each answer comes within the client's deadline, though nothing is read meanwhile.
  for (int i = 0; i < 300; ++i)
    REQUIRE(code_of(client.keep("f" + std::to_string(i), memfd())) == 0);
  for (int i = 0; i < 300; i += 2) REQUIRE(code_of(client.drop("f" + std::to_string(i))) == 0);
  REQUIRE(code_of(client.keep("f0", memfd())) == 0);
  CHECK(eventually([&] { return manager.names().size() == 151; }));
}

TEST_CASE("told to make way, it ends with what it holds in the store, for a new one to take") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  std::optional<KeeperProcess> keeper(std::in_place, dir / "k", manager.passes());
  Token token;
  {
    Client client = keeper->connect();
    for (int i = 0; i < 40; ++i)
      REQUIRE(code_of(client.keep("f" + std::to_string(i), memfd())) == 0);
    REQUIRE(code_of(client.keep("token", token.write_end)) == 0);
    token.write_end.reset();
  }
  keeper->signal(SIGHUP);
  // As long as systemd does not read, not all of it is there, or it is in the socket's queue.
  CHECK(eventually([&] {
    manager.read_all();
    return !keeper->running();
  }));
  CHECK(keeper->exit_code() == 3);
  CHECK(manager.names().size() == 41);
  REQUIRE(::unlink((dir / "k").c_str()) == 0);
  keeper.emplace(dir / "k", manager.passes());
  CHECK(keeper->connect().take_all()->size() == 41);
  CHECK_FALSE(token.closed());
}

TEST_CASE("holding nothing it makes way too, and is started again") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  KeeperProcess keeper(dir / "k", manager.passes());
  keeper.signal(SIGHUP);
  CHECK(keeper.exit_code() == 3);
}

TEST_CASE("without a descriptor store it makes way for nobody") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  REQUIRE(code_of(keeper.connect().keep("a", memfd())) == 0);
  keeper.signal(SIGHUP);
  keeper.signal(SIGTERM);
  std::this_thread::sleep_for(100ms);
  CHECK(keeper.running());
  CHECK(keeper.connect().take_all()->size() == 1);
}

TEST_CASE("the status tells what is held, and the ways to replace and to end it") {
  const Directory dir;
  FakeManager manager(dir / "notify");
  KeeperProcess keeper(dir / "k", manager.passes());
  Client client = keeper.connect();
  CHECK(eventually([&] {
    manager.read_all();
    return manager.status.find(
               "; daemon connected; replace: systemctl reload ramfold-keeper; "
               "end: ramfold off first") != std::string::npos;
  }));
}

TEST_CASE("its log has a priority before each line where the journal reads it") {
  for (const bool journal : {false, true}) {
    const Directory dir;
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
    const sys::Fd read_end(ends[0]);
    struct stat st{};
    REQUIRE(::fstat(ends[1], &st) == 0);
    auto stream = std::to_string(st.st_dev) + ":" + std::to_string(st.st_ino + !journal);
    ::setenv("JOURNAL_STREAM", stream.c_str(), 1);
    const sys::Fd own(::dup(STDERR_FILENO));
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[1]);
    KeeperProcess keeper(dir / "k");
    ::dup2(own.get(), STDERR_FILENO);
    ::unsetenv("JOURNAL_STREAM");
    Client client = keeper.connect();
    REQUIRE(code_of(client.keep("a", memfd())) == 0);
    keeper.signal(SIGTERM);
    std::string log;
    CHECK(eventually([&] {
      char part[512];
      const ssize_t n = ::read(read_end.get(), part, sizeof part);
      if (n > 0) log.append(part, static_cast<std::size_t>(n));
      return log.find("refused to stop") != std::string::npos;
    }));
    INFO(log);
    const std::string expected = journal ? "<4>refused to stop" : "ramfold-keeper: refused to stop";
    const std::size_t at = log.find(expected);
    CHECK(at != std::string::npos);
    CHECK((at == 0 || log[at - 1] == '\n'));
  }
}
