// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/server.hpp"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <thread>

#include "../temp_dir.hpp"
#include "base/clock.hpp"
#include "control/listener.hpp"
#include "control/protocol.hpp"
#include "fake_service.hpp"
#include "patience.hpp"
#include "sys/fd.hpp"
#include "sys/thread.hpp"

using namespace ramfold;
using namespace ramfold::control;
using namespace std::chrono_literals;

namespace {

class Log {
 public:
  std::function<void(std::string_view)> sink() {
    return [this](std::string_view line) {
      const std::lock_guard lock(mutex_);
      lines_ += std::string(line) + "\n";
    };
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  std::mutex mutex_;
  std::string lines_;
};

// A client that only knows sockets and lines.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    connected_ = ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  bool connected() const { return connected_; }
  // False: the server has closed the connection.
  bool try_send(const std::string& text) const {
    return ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(text.size());
  }
  void send(const std::string& text) const { REQUIRE(try_send(text)); }
  // Empty: closed, or nothing came in time.
  std::string line(int timeout_ms = 5000) {
    while (true) {
      const auto end = buffer_.find('\n');
      if (end != std::string::npos) {
        std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return line;
      }
      pollfd wait{fd_.get(), POLLIN, 0};
      if (::poll(&wait, 1, test::patient(timeout_ms)) <= 0) return {};
      char part[65536];
      const auto n = ::read(fd_.get(), part, sizeof part);
      if (n <= 0) {
        closed_ = true;
        return {};
      }
      buffer_.append(part, static_cast<std::size_t>(n));
    }
  }
  Reply reply() {
    const auto parsed = parse_reply(line());
    REQUIRE(parsed.has_value());
    return *parsed;
  }
  Reply ask(const Request& request) {
    send(encode(request));
    return reply();
  }
  bool closed() {
    line();
    return closed_;
  }
  // The server has closed the connection; answers may be unread.
  bool is_hung_up() const {
    pollfd look{fd_.get(), 0, 0};
    return ::poll(&look, 1, 0) == 1 && (look.revents & POLLHUP) != 0;
  }
  // After what still came.
  bool closed_in_the_end() {
    while (!line().empty()) {
    }
    return closed_;
  }
  int fd() const { return fd_.get(); }

 private:
  sys::Fd fd_;
  bool connected_ = false;
  bool closed_ = false;
  std::string buffer_;
};

struct Fixture {
  explicit Fixture(std::chrono::milliseconds idle = 60s, std::chrono::milliseconds write = 10s) {
    auto started =
        Server::start({dir / "control.sock", "no-such-group", log.sink(), idle, write}, service);
    if (!started) FAIL(started.error().text());
    server = std::move(*started);
  }
  ~Fixture() { service.hurry = true; }
  Client client() { return Client(dir / "control.sock"); }
  TempDir dir;
  Log log;
  FakeService service;
  std::unique_ptr<Server> server;
};

Failure failure_of(const Reply& reply) { return std::get<OperationError>(reply.body).failure; }

}  // namespace

TEST_CASE("a snapshot and one VM") {
  Fixture f;
  Client client = f.client();
  const Reply all = client.ask({5, Operation::snapshot, {}, false});
  CHECK(all.id == 5);
  CHECK(std::get<Snapshot>(all.body) == f.service.snapshot());
  const Reply one = client.ask({6, Operation::show, VmSelector{"4002"}, false});
  CHECK(std::get<VmView>(one.body).name == "db");
  CHECK(failure_of(client.ask({7, Operation::show, VmSelector{"none"}, false})) ==
        Failure::not_found);
}

TEST_CASE("detach tells its plan, its progress and its end") {
  Fixture f;
  f.service.unfold_ms = 10'000;
  Client client = f.client();
  const Reply plan = client.ask({1, Operation::detach, VmSelector{"web"}, false});
  CHECK(std::get<UnfoldPlan>(plan.body).pages == PageCount{38000});
  Reply next = client.reply();
  int steps = 0;
  while (!next.last) {
    CHECK(std::holds_alternative<UnfoldProgress>(next.body));
    ++steps;
    f.service.hurry = true;
    next = client.reply();
  }
  CHECK(steps > 0);
  CHECK(std::holds_alternative<Done>(next.body));
  CHECK(std::get<VmView>(client.ask({2, Operation::show, VmSelector{"web"}, false}).body).state ==
        VmState::detached);
  CHECK(f.log.text().find("detach web by uid") != std::string::npos);
  CHECK(failure_of(client.ask({3, Operation::attach, VmSelector{"db"}, false})) ==
        Failure::conflict);
  CHECK(std::get<VmView>(client.ask({4, Operation::attach, VmSelector{"web"}, false}).body).state ==
        VmState::folding);
}

TEST_CASE("off is refused when memory does not suffice, with how much is missing") {
  Fixture f;
  f.service.available = ByteCount{100'000'000};
  Client client = f.client();
  const Reply plan = client.ask({1, Operation::off, {}, false});
  CHECK(std::get<UnfoldPlan>(plan.body).available == ByteCount{100'000'000});
  const auto error = std::get<OperationError>(client.reply().body);
  CHECK(error.failure == Failure::refused);
  CHECK(error.missing == ByteCount{38000ull * 4096 - 100'000'000});
  CHECK(f.service.snapshot().host.state == HostState::folding);
}

TEST_CASE("plan_only tells the plan and does nothing") {
  Fixture f;
  Client client = f.client();
  CHECK_FALSE(client.ask({1, Operation::off, {}, true}).last);
  CHECK(std::holds_alternative<Done>(client.reply().body));
  CHECK(f.service.snapshot().host.state == HostState::folding);
}

TEST_CASE("pause and resume, one VM and all") {
  Fixture f;
  Client client = f.client();
  CHECK(client.ask({1, Operation::pause, {}, false}).last);
  CHECK(f.service.snapshot().host.state == HostState::paused);
  client.ask({2, Operation::resume, {}, false});
  CHECK(f.service.snapshot().host.state == HostState::folding);
  client.ask({3, Operation::pause, VmSelector{"web"}, false});
  CHECK(f.service.snapshot().vms[0].state == VmState::paused);
}

TEST_CASE("a bad request is answered and the connection goes on; too long a one ends it") {
  Fixture f;
  Client client = f.client();
  client.send("hello\n{\"ramfold\":1,\"id\":3,\"op\":\"snapshot\"}\n");
  CHECK(failure_of(client.reply()) == Failure::bad_request);
  CHECK(client.reply().id == 3);
  client.send(std::string(kRequestBytesMax + 100, 'x'));
  CHECK(failure_of(client.reply()) == Failure::bad_request);
  CHECK(client.closed());
}

TEST_CASE("requests sent together are answered in order") {
  Fixture f;
  Client client = f.client();
  std::string many;
  for (std::uint64_t id = 0; id < 50; ++id) many += encode({id, Operation::snapshot, {}, false});
  client.send(many);
  for (std::uint64_t id = 0; id < 50; ++id) CHECK(client.reply().id == id);
}

TEST_CASE("a client that does not read is dropped and delays nobody") {
  Fixture f(60s, 200ms);
  f.service.change([](Snapshot& s) { s.vms.resize(400, s.vms[0]); });
  Client slow = f.client();
  const int small = 4096;
  ::setsockopt(slow.fd(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  for (int i = 0; i < 20; ++i) slow.send(encode({1, Operation::snapshot, {}, false}));
  Client other = f.client();
  const auto begin = monotonic_ns();
  CHECK(other.ask({1, Operation::show, VmSelector{"web"}, false}).last);
  CHECK(monotonic_ns() - begin < test::patient(5'000) * std::uint64_t{1'000'000});
  CHECK(test::soon([&] { return slow.is_hung_up(); }));
  while (!slow.line(1000).empty()) {
  }
  CHECK(slow.closed());
}

TEST_CASE("a client that says nothing is dropped") {
  Fixture f(100ms);
  Client silent = f.client();
  Client partial = f.client();
  (void)partial.try_send("{\"ramfold\":1,");
  CHECK(silent.closed());
  CHECK(partial.closed());
}

TEST_CASE("a long operation delays no snapshot, and its client may go away") {
  Fixture f;
  f.service.unfold_ms = 20'000;
  {
    Client leaver = f.client();
    leaver.ask({1, Operation::detach, VmSelector{"web"}, false});
  }
  Client client = f.client();
  const Reply during = client.ask({1, Operation::snapshot, {}, false});
  CHECK(std::get<Snapshot>(during.body).vms[0].state == VmState::folding);
  f.service.hurry = true;
  CHECK(test::soon([&] { return f.service.snapshot().vms[0].state == VmState::detached; }));
}

TEST_CASE("more operations than threads are told that the daemon is busy") {
  Fixture f;
  f.service.unfold_ms = 20'000;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<Client>(f.dir / "control.sock"));
    CHECK_FALSE(clients.back()->ask({1, Operation::off, {}, false}).last);
  }
  CHECK(failure_of(f.client().ask({1, Operation::off, {}, false})) == Failure::busy);
}

TEST_CASE("more clients than allowed are turned away with a reason") {
  Fixture f;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 64; ++i) {
    clients.push_back(std::make_unique<Client>(f.dir / "control.sock"));
    REQUIRE(clients.back()->ask({1, Operation::pause, {}, false}).last);
  }
  Client late = f.client();
  CHECK(failure_of(late.reply()) == Failure::busy);
  CHECK(late.closed());
  clients.pop_back();
  CHECK(test::soon([&] {
    Client next = f.client();
    if (!next.try_send(encode({1, Operation::snapshot, {}, false}))) return false;
    const auto reply = parse_reply(next.line());
    return reply && std::holds_alternative<Snapshot>(reply->body);
  }));
}

TEST_CASE("the socket is for root alone where its group does not exist, and the log says so") {
  Fixture f;
  struct stat entry{};
  REQUIRE(::stat((f.dir / "control.sock").c_str(), &entry) == 0);
  CHECK((entry.st_mode & 07777) == 0600);
  CHECK(f.log.text().find("there is no group 'no-such-group'") != std::string::npos);
}

TEST_CASE("the socket belongs to its group, and goes with the server") {
  TempDir dir;
  Log log;
  FakeService service;
  const group* mine = ::getgrgid(::getegid());
  REQUIRE(mine != nullptr);
  {
    dir.write("control.sock", "stale");
    const auto server = Server::start({dir / "control.sock", mine->gr_name, log.sink()}, service);
    REQUIRE(server.has_value());
    struct stat entry{};
    REQUIRE(::stat((dir / "control.sock").c_str(), &entry) == 0);
    CHECK((entry.st_mode & 07777) == 0660);
    CHECK(entry.st_gid == ::getegid());
  }
  CHECK_FALSE(Client(dir / "control.sock").connected());
}

TEST_CASE("a stranger is turned away even when the socket's mode lets him in") {
  if (::geteuid() != 0) return;  // needs another uid
  Fixture f;
  REQUIRE(::chmod(f.dir.path().c_str(), 0755) == 0);
  REQUIRE(::chmod((f.dir / "control.sock").c_str(), 0666) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(3);
    Client stranger(f.dir / "control.sock");
    ::_exit(stranger.connected() && stranger.line().empty() ? 0 : 4);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(f.log.text().find("uid 65534") != std::string::npos);
}

TEST_CASE("a path that is too long is an error that says what to shorten") {
  Log log;
  FakeService service;
  const auto server = Server::start({"/tmp/" + std::string(120, 'x'), "root", log.sink()}, service);
  REQUIRE_FALSE(server.has_value());
  CHECK(server.error().what.find("runtime_dir") != std::string::npos);
}

TEST_CASE("without a thread to be had the server does not start, and says why") {
  static std::atomic<int> left{0};
  TempDir dir;
  Log log;
  FakeService service;
  const auto start = [&] {
    return Server::start({dir / "control.sock", "no-such-group", log.sink()}, service);
  };
  sys::set_thread_injector([](const char*) noexcept { return left-- > 0 ? 0 : EAGAIN; });
  for (const int threads : {0, 1, 3, 5}) {
    left = threads;
    const auto server = start();
    REQUIRE_FALSE(server.has_value());
    CHECK(server.error().code == EAGAIN);
  }
  sys::set_thread_injector(nullptr);
  const auto server = start();
  REQUIRE(server.has_value());
  Client client(dir / "control.sock");
  CHECK(std::get<Snapshot>(client.ask({5, Operation::snapshot, {}, false}).body) ==
        service.snapshot());
}

TEST_CASE("the server ends while clients are connected and an operation runs") {
  Fixture f;
  f.service.unfold_ms = 20'000;
  Client client = f.client();
  CHECK_FALSE(client.ask({1, Operation::off, {}, false}).last);
  std::thread ending([&] { f.server.reset(); });
  CHECK(client.closed_in_the_end());
  f.service.hurry = true;
  ending.join();
  CHECK(f.service.snapshot().host.state == HostState::off);
}
