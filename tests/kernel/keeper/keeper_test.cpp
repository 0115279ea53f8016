// SPDX-License-Identifier: GPL-2.0-or-later
// The keeper as a process: what it keeps, whom it serves, and what does not move it.
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "keeper_process.hpp"
#include "sys/message.hpp"

using namespace ramfold;
using namespace ramfold::keeper;
using namespace ramfold::keeper::test;

namespace {

int code_of(const Status& status) { return status ? 0 : status.error().code; }

std::map<std::string, ino_t> inodes(const std::vector<Kept>& all) {
  std::map<std::string, ino_t> result;
  for (const Kept& kept : all) {
    struct stat st{};
    REQUIRE(::fstat(kept.fd.get(), &st) == 0);
    result[kept.name] = st.st_ino;
  }
  return result;
}
ino_t inode(const sys::Fd& fd) {
  struct stat st{};
  REQUIRE(::fstat(fd.get(), &st) == 0);
  return st.st_ino;
}

}  // namespace

TEST_CASE("500 descriptors outlive the daemon and come back in order, each the same file") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  std::map<std::string, ino_t> expected;
  {
    Client client = keeper.connect();
    for (int i = 0; i < 500; ++i) {
      const std::string name = "vm" + std::to_string(i) + ".ram";
      const sys::Fd fd = memfd();
      REQUIRE(code_of(client.keep(name, fd)) == 0);
      expected[name] = inode(fd);
    }
  }
  Client client = keeper.connect();
  for (int round = 0; round < 2; ++round) {  // it goes on holding them
    const auto all = client.take_all();
    REQUIRE(all);
    CHECK(all->size() == 500);
    CHECK(inodes(*all) == expected);
  }
}

TEST_CASE("a set is kept in one step, watches among it") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  const Child vm;
  const sys::Fd ram = memfd();
  const sys::Fd pidfd = pidfd_of(vm.pid());
  const std::array set{Keep{"1.ram", ram}, Keep{"1.", pidfd, Kind::watch}};
  REQUIRE(code_of(client.keep_together(set)) == 0);
  REQUIRE(code_of(client.keep_together(set)) == 0);
  const auto all = client.take_all();
  REQUIRE(all);
  REQUIRE(all->size() == 2);
  CHECK((*all)[0].name == "1.ram");
  CHECK((*all)[1].kind == Kind::watch);
  CHECK((*all)[1].name == "1.");
}

TEST_CASE("names, files and prefixes are checked, and the connection goes on") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  const sys::Fd a = memfd();
  CHECK(code_of(client.keep("Not A Name", a)) == EINVAL);
  CHECK(code_of(client.keep("a", sys::BorrowedFd(-1))) == EBADF);
  CHECK(code_of(client.keep("a", a)) == 0);
  CHECK(code_of(client.keep("a", memfd())) == EEXIST);
  CHECK(code_of(client.keep("b", a)) == EEXIST);
  CHECK(code_of(client.watch("a.", a)) == EINVAL);
  CHECK(code_of(client.drop_prefix("a")) == EINVAL);
  CHECK(code_of(client.drop("none")) == 0);
  CHECK(client.alive());
  CHECK(client.take_all()->size() == 1);
  CHECK(code_of(client.drop("a")) == 0);
  CHECK(client.take_all()->empty());
}

TEST_CASE("a dropped descriptor is closed, alone or with its prefix") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  Token one, two, other;
  REQUIRE(code_of(client.keep("1.a", one.write_end)) == 0);
  REQUIRE(code_of(client.keep("2.a", two.write_end)) == 0);
  REQUIRE(code_of(client.keep("20.a", other.write_end)) == 0);
  for (Token* t : {&one, &two, &other}) t->write_end.reset();
  REQUIRE(code_of(client.drop("1.a")) == 0);
  CHECK(eventually([&] { return one.closed(); }));
  CHECK_FALSE(two.closed());
  REQUIRE(code_of(client.drop_prefix("2.")) == 0);
  CHECK(eventually([&] { return two.closed(); }));
  CHECK_FALSE(other.closed());
}

TEST_CASE("when a watched process ends its prefix is dropped, with or without a daemon (L5)") {
  const bool daemon_alive = GENERATE(true, false);
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  std::optional<Client> client = keeper.connect();
  Child vm;
  Token ram, other;
  REQUIRE(code_of(client->keep("1.ram", ram.write_end)) == 0);
  REQUIRE(code_of(client->keep("2.ram", other.write_end)) == 0);
  REQUIRE(code_of(client->watch("1.", pidfd_of(vm.pid()))) == 0);
  ram.write_end.reset();
  other.write_end.reset();
  if (!daemon_alive) client.reset();
  CHECK_FALSE(ram.closed());
  vm.kill();
  CHECK(eventually([&] { return ram.closed(); }));
  CHECK_FALSE(other.closed());
  if (!client) client = keeper.connect();
  const auto all = client->take_all();
  REQUIRE(all);
  CHECK(all->size() == 1);
}

TEST_CASE("a watch on a process that has ended drops the prefix at once") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  Child vm;
  const sys::Fd pidfd = pidfd_of(vm.pid());
  Token ram;
  REQUIRE(code_of(client.keep("1.ram", ram.write_end)) == 0);
  ram.write_end.reset();
  vm.kill();
  CHECK(code_of(client.watch("1.", pidfd)) == ESRCH);
  CHECK(eventually([&] { return ram.closed(); }));
  CHECK(client.take_all()->empty());
}

TEST_CASE("one daemon at a time") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  std::optional<Client> client = keeper.connect();
  const auto second = Client::connect(keeper.socket());
  REQUIRE_FALSE(second);
  CHECK(second.error().code == EBUSY);
  CHECK(second.error().what.find(std::to_string(::getpid())) != std::string::npos);
  CHECK(code_of(client->keep("a", memfd())) == 0);
  client.reset();
  const auto third = Client::connect(keeper.socket());  // at once, no waiting
  CHECK(third);
}

TEST_CASE("one keeper a socket") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  KeeperProcess second(dir / "k");
  CHECK(second.exit_code() == 1);
  CHECK(code_of(keeper.connect().keep("a", memfd())) == 0);
}

TEST_CASE("the socket is root's alone, and another user is not served") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  struct stat st{};
  REQUIRE(::stat(keeper.socket().c_str(), &st) == 0);
  CHECK((st.st_mode & 0777) == 0600);
  if (::geteuid() != 0) return;
  // Even where the permissions would let it in.
  REQUIRE(::chmod(keeper.socket().c_str(), 0666) == 0);
  REQUIRE(::chmod((dir / ".").c_str(), 0755) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(9);
    const auto socket = sys::connect_seqpacket(keeper.socket());
    if (!socket) ::_exit(8);
    char byte;
    ::_exit(::recv(socket->get(), &byte, 1, 0) == 0 ? 0 : 7);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("it refuses to stop while it holds anything, and ends when that is gone") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  {
    Client client = keeper.connect();
    REQUIRE(code_of(client.keep("a", memfd())) == 0);
  }
  for (const int number : {SIGHUP, SIGPIPE, SIGUSR1, SIGALRM, SIGTSTP, SIGINT, SIGQUIT, SIGTERM}) {
    keeper.signal(number);
  }
  std::this_thread::sleep_for(50ms);
  REQUIRE(keeper.running());
  Client client = keeper.connect();
  CHECK(client.take_all()->size() == 1);
  CHECK(code_of(client.drop("a")) == 0);
  CHECK(keeper.exit_code() == 3);  // told apart: the unit starts it again
  CHECK(eventually([&] { return !client.alive(); }));
  CHECK(code_of(client.keep("b", memfd())) != 0);
}

TEST_CASE("it ends cleanly when it holds nothing") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  const Client client = keeper.connect();
  keeper.signal(SIGTERM);
  CHECK(keeper.exit_code() == 0);
}

TEST_CASE("the client sees the keeper die") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  CHECK(client.alive());
  pollfd p{client.socket().get(), POLLIN, 0};
  CHECK(::poll(&p, 1, 0) == 0);
  keeper.kill();
  CHECK_FALSE(client.alive());
  CHECK(::poll(&p, 1, 0) == 1);
  CHECK(code_of(client.keep("a", memfd())) != 0);
  CHECK_FALSE(client.take_all());
}

TEST_CASE("a keeper that does not answer costs the deadline, not for ever") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  // On a busy machine the keeper may need longer than this deadline for its greeting.
  Result<Client> client = fail("not connected yet");
  REQUIRE(eventually([&] {
    client = Client::connect(keeper.socket(), 100ms);
    return client.has_value();
  }));
  keeper.signal(SIGSTOP);
  CHECK(code_of(client->keep("a", memfd())) == ETIMEDOUT);
  CHECK_FALSE(client->alive());
  CHECK(code_of(client->keep("a", memfd())) == ENOTCONN);
  keeper.signal(SIGCONT);
  Client next = keeper.connect();
  CHECK(next.take_all()->size() <= 1);  // not acknowledged: kept or not
}

TEST_CASE("half a handshake blocks nobody, and ends") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  std::vector<sys::Fd> silent;
  for (int i = 0; i < 50; ++i) {
    // The backlog is short, and the keeper may be slow to empty it.
    REQUIRE(eventually([&] {
      auto socket = sys::connect_seqpacket(keeper.socket());
      if (socket) silent.push_back(std::move(*socket));
      return socket.has_value();
    }));
  }
  silent.erase(silent.begin() + 4, silent.end());
  Client client = keeper.connect();
  CHECK(code_of(client.keep("a", memfd())) == 0);
  char byte;
  for (const sys::Fd& fd : silent)
    CHECK(::recv(fd.get(), &byte, 1, 0) == 0);  // closed by the keeper
}

TEST_CASE("a daemon that does not read its answers is closed and nothing is lost") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  {
    Client client = keeper.connect();
    for (int i = 0; i < 40; ++i)
      REQUIRE(code_of(client.keep("n" + std::to_string(i), memfd())) == 0);
  }
  const auto socket = sys::connect_seqpacket(keeper.socket());
  REQUIRE(socket);
  Buffer out{};
  std::size_t length = write_hello(out, 1);
  REQUIRE(sys::send(*socket, std::span(out).first(length), {}, 0));
  length = write_list(out, Type::take, 2, std::array{Item{}});
  for (int i = 0; i < 100'000; ++i) {
    if (!sys::send(*socket, std::span(out).first(length), {}, 0)) break;
  }
  const std::size_t descriptors = keeper.open_descriptors();
  CHECK(descriptors < 60);
  Client client = keeper.connect();
  CHECK(client.take_all()->size() == 40);
}

TEST_CASE("hostile bytes end the connection and change nothing") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  {
    Client client = keeper.connect();
    for (int i = 0; i < 40; ++i)
      REQUIRE(code_of(client.keep("n" + std::to_string(i), memfd())) == 0);
  }
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  const sys::Fd some = memfd();
  for (int round = 0; round < 300; ++round) {
    const auto socket = sys::connect_seqpacket(keeper.socket());
    REQUIRE(socket);
    Buffer out{};
    if (random() % 4 != 0) {
      const std::size_t hello = write_hello(out, 1);
      if (!sys::send(*socket, std::span(out).first(hello), {}, 0)) continue;
    }
    // A message that drops, with its header or its body spoiled; or keeps with descriptors that
    // lie.
    const Item item{Kind::kept, random() % 2 == 0 ? "n1" : "n."};
    const Type type =
        std::array{Type::drop, Type::drop_prefix, Type::keep, Type::take}[random() % 4];
    std::vector<std::byte> bytes(8192);
    const std::size_t length = write_list(out, type, 2, {&item, 1});
    std::copy_n(out.begin(), length, bytes.begin());
    bytes[random() % 12] ^= static_cast<std::byte>(1 + random() % 255);  // magic, type, length
    for (auto i = random() % 3; i > 0; --i)
      bytes[random() % length] = static_cast<std::byte>(random());
    bytes[0] = std::byte{0};
    const std::array<int, 2> fds{some.get(), some.get()};
    const std::size_t sent = random() % 3 == 0 ? 1 + random() % bytes.size() : length;
    static_cast<void>(sys::send(*socket, std::span(bytes).first(sent),
                                std::span(fds).first(random() % 3), MSG_DONTWAIT));
  }
  REQUIRE(keeper.running());
  Client client = keeper.connect();
  CHECK(client.take_all()->size() == 40);
  CHECK(eventually([&] { return keeper.open_descriptors() < 60; }));
}

TEST_CASE("a daemon killed at any moment of a hand-over leaves every acknowledged descriptor") {
  const Directory dir;
  KeeperProcess keeper(dir / "k");
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  // What the children were told is kept, in memory that survives them.
  void* map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(map != MAP_FAILED);
  auto* acknowledged = static_cast<volatile unsigned*>(map);
  std::size_t unacknowledged = 0;
  for (int round = 0; round < 200; ++round) {
    *acknowledged = 0;
    const std::string prefix = "r" + std::to_string(round) + ".";
    Child daemon([&] {
      auto client = Client::connect(keeper.socket());
      for (unsigned i = 0; client && i < 2000; ++i) {
        if (!client->keep(prefix + std::to_string(i), memfd())) break;
        *acknowledged = i + 1;
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 6000));
    daemon.kill();
    const unsigned count = *acknowledged;
    Client client = keeper.connect();
    const auto all = client.take_all();
    REQUIRE(all);
    std::size_t mine = 0;
    for (const Kept& kept : *all) mine += kept.name.starts_with(prefix);
    REQUIRE(mine >= count);
    REQUIRE(mine <= count + 1);
    unacknowledged += mine - count;
    REQUIRE(code_of(client.drop_prefix(prefix)) == 0);
  }
  ::munmap(map, 4096);
  CHECK(keeper.running());
  CHECK(eventually([&] { return keeper.open_descriptors() < 20; }));
  UNSCOPED_INFO(unacknowledged << " kept and not acknowledged");
}

TEST_CASE("it is full at a bound and says so") {
  const Directory dir;
  const KeeperProcess keeper(dir / "k");
  Client client = keeper.connect();
  REQUIRE(client.held_max() > 0);
  const std::size_t room = client.held_max();
  for (std::size_t done = 0; done < room;) {
    std::vector<sys::Fd> fds;
    std::vector<std::string> names;
    std::vector<Keep> set;
    for (std::size_t i = 0; i < kBatchMax && done + i < room; ++i) {
      fds.push_back(memfd());
      names.push_back(std::to_string(done + i));
    }
    set.reserve(fds.size());
    for (std::size_t i = 0; i < fds.size(); ++i) set.push_back({names[i], fds[i]});
    REQUIRE(code_of(client.keep_together(set)) == 0);
    done += set.size();
  }
  CHECK(code_of(client.keep("one.more", memfd())) == ENOSPC);
  CHECK(client.alive());
  CHECK(code_of(client.drop("0")) == 0);
  CHECK(code_of(client.keep("one.more", memfd())) == 0);
}
