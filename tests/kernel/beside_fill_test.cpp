// SPDX-License-Identifier: GPL-2.0-or-later
// T5, a discard beside a fill: a daemon in a process of its own stops between its look at the
// discard bit and the end of its COPY, while a program with the real agent discards the page.
// Compiled twice: with RAMFOLD_TEST_NO_FILLING the fill does not tell the agent, and then the old
// bytes must come back (this shows that the test can fail). Processes: the test, which is also the
// daemon's successor; the first daemon; the program.
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <cstring>
#include <thread>

#include "agent/fake_daemon.hpp"
#include "base/check.hpp"
#include "base/test_points.hpp"
#include "fault/server.hpp"
#include "sys/message.hpp"

using namespace ramfold;
using agent_test::Answer;

namespace {

constexpr std::uint64_t kPages = 16;
constexpr PageIndex kP{9};
constexpr const char* kPoke = "poke 0 36864 90";
constexpr const char* kPeek = "peek 0 36864";
constexpr long kOld = 90;
constexpr int kSoonMs = 150;  // long enough to see that something waits
constexpr std::uint32_t kGeneration = 1;
#ifdef RAMFOLD_TEST_NO_FILLING
constexpr bool kTold = false;
#else
constexpr bool kTold = true;
#endif

enum class Path { fault, unfold };

class OneContent final : public store::ContentSource {
 public:
  store::Got get(GroupId, ContentId, std::byte* out, store::FetchTicket) noexcept override {
    std::memset(out, kOld, kPageSize);
    return store::Got::done;
  }
  store::Booked drop(GroupId, ContentId) noexcept override { return store::Booked::done; }
};

struct Memory {
  explicit Memory(std::uint64_t pages) : shared(pages, 0) {
    auto made =
        sys::make_memfd("words", guest::PageTable::words_size(PageCount{pages}), sys::Sealed::yes);
    REQUIRE(made.has_value());
    words = std::move(*made);
  }
  agent_test::Shared shared;
  sys::Fd words;
};

std::unique_ptr<guest::Vm> make_vm(const Memory& memory, pid_t pid, const rf_block& block, int uffd,
                                   int ram) {
  guest::VmRecord record;
  record.vm = 1;
  record.pid = pid;
  record.blocks = 1;
  record.block[0] = block;
  guest::Vm::Files files;
  files.uffd.reset(::dup(uffd));
  files.rams.emplace_back(::dup(ram));
  files.words.reset(::dup(memory.words.get()));
  files.shared.reset(::dup(memory.shared.fd()));
  auto vm = guest::Vm::make(record, std::move(files));
  return vm ? std::move(*vm) : nullptr;
}

// What the first daemon tells once its page is folded, along with uffd and RAM file: all that a
// keeper would hold.
struct Folded {
  pid_t pid;
  rf_block block;
};

// The first daemon. At each test point of the fill it says so ('l'ooked, 'c'opied) and waits to be
// told to go on.
class FirstDaemon {
 public:
  FirstDaemon(const std::string& path, const Memory& memory, int told, int orders)
      : daemon_(path), memory_(memory), told_(told), orders_(orders) {}

  [[noreturn]] void run(Path path) {
    s_self = this;
    daemon_.hello();
    const rf_offer offer = daemon_.offer(kGeneration);
    ENSURE(sys::Uffd(sys::BorrowedFd(daemon_.uffd.get()))
               .handshake(sys::Uffd::kFeaturesNeeded)
               .has_value());
    vm_ = make_vm(memory_, daemon_.peer_pid(), offer.block[0], daemon_.uffd.get(),
                  daemon_.ram[0].get());
    ENSURE(vm_ != nullptr);
    vm_->fillings().agent_is_there(kGeneration);
    daemon_.attach(memory_.shared, kGeneration);
    expect_order('f');
    fold();
    const Folded folded{daemon_.peer_pid(), offer.block[0]};
    const std::array fds{daemon_.uffd.get(), daemon_.ram[0].get()};
    ENSURE(sys::send(sys::BorrowedFd(told_), std::as_bytes(std::span(&folded, 1)), fds, 0)
               .has_value());
    test_point_hook.store(reached);
    std::thread([this, path] { fill(path); }).detach();
    for (;;) {
      expect_order('h');
      vm_->fillings().agent_is_away();
      daemon_.hang_up();
    }
  }

 private:
  void fold() {
    guest::PageTable& table = vm_->table();
    ENSURE(vm_->ensure_registered(kP).outcome == sys::Outcome::done);
    ENSURE(table.take_for_fold(kP) && table.commit(kP));
    const guest::Word word = table.load(kP).value();
    ENSURE(vm_->advance(kP, word, word.becomes(guest::Tag::folded, ContentId{1}, 0, 0),
                        guest::Owner::punching));
    ENSURE(vm_->punch_pages({kP, PageCount{1}}).has_value());
    vm_->release(kP);
  }
  void fill(Path path) {
    OneContent source;
    const std::atomic<bool> stopping{false};
    fault::Filler filler(*vm_, source, GroupId{}, stopping);
    const bool fault = path == Path::fault;
    fault::FillerThread me(
        vm_->fillings()[fault ? guest::Fillings::kFaultFirst : guest::Fillings::kUnfolder]);
    (void)(fault ? filler.serve(kP, fault::Need::read, {}, me) : filler.unfold(kP, {}, me));
    tell('d');
    for (;;) ::pause();
  }
  void tell(char what) const { ENSURE(::write(told_, &what, 1) == 1); }
  void expect_order(char order) const {
    char got = 0;
    if (::read(orders_, &got, 1) != 1) ::_exit(0);
    ENSURE(got == order);
  }
  static void reached(const char* name) {
    const char what = std::strcmp(name, "fault.looked") == 0   ? 'l'
                      : std::strcmp(name, "fault.filled") == 0 ? 'c'
                                                               : 0;
    if (what == 0) return;
    s_self->tell(what);
    char go = 0;
    if (::read(s_self->told_, &go, 1) != 1) ::_exit(0);
  }

  static inline FirstDaemon* s_self = nullptr;
  agent_test::Daemon daemon_;
  const Memory& memory_;
  std::unique_ptr<guest::Vm> vm_;
  int told_;
  int orders_;
};

struct Pair {
  explicit Pair(int type) { REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) == 0); }
  ~Pair() {
    for (const int end : ends) {
      if (end >= 0) ::close(end);
    }
  }
  void keep(int which) { ::close(std::exchange(ends[1 - which], -1)); }
  int ends[2];
};

class Scene {
 public:
  explicit Scene(Path path, std::vector<std::string> environment = {})
      : memory_(kPages),
        fill_(SOCK_SEQPACKET),
        orders_(SOCK_SEQPACKET),
        socket_(agent_test::temporary_directory() + "/agent.sock") {
    first_ = ::fork();
    REQUIRE(first_ >= 0);
    if (first_ == 0) {
      ::signal(SIGABRT, SIG_DFL);  // not the test's report
      fill_.keep(1);
      orders_.keep(1);
      FirstDaemon(socket_, memory_, fill_.ends[1], orders_.ends[1]).run(path);
    }
    fill_.keep(0);
    orders_.keep(0);
    agent_test::Guest::Options options;
    options.environment = std::move(environment);
    guest_ = std::make_unique<agent_test::Guest>(socket_, std::move(options));
    guest_->good("ram 0 " + std::to_string(kPages * kPageSize));
    REQUIRE(guest_->good(kPoke) == kOld);
    order('f');
    std::array<std::byte, sizeof(Folded)> bytes;
    auto message = sys::receive(sys::BorrowedFd(fill_.ends[0]), bytes, 0);
    REQUIRE((message.has_value() && message->fd_count == 2));
    std::memcpy(&folded_, bytes.data(), sizeof folded_);
    uffd_ = std::move(message->fds[0]);
    ram_ = std::move(message->fds[1]);
  }
  ~Scene() {
    successor_.reset();
    kill_first();
  }

  void fill_has(char what) {
    char got = 0;
    REQUIRE(::read(fill_.ends[0], &got, 1) == 1);
    REQUIRE(got == what);
  }
  void go() { REQUIRE(::write(fill_.ends[0], "g", 1) == 1); }
  void hang_up() { order('h'); }
  void signal_first(int number) const { REQUIRE(::kill(first_, number) == 0); }
  void kill_first() {
    if (first_ <= 0) return;
    ::kill(first_, SIGKILL);
    ::waitpid(first_, nullptr, 0);
    first_ = -1;
  }
  // As after a restart of the daemon.
  void succeed() {
    kill_first();
    vm_ = make_vm(memory_, folded_.pid, folded_.block, uffd_.get(), ram_.get());
    REQUIRE(vm_);
    auto pool = fault::Pool::make();
    REQUIRE(pool.has_value());
    REQUIRE((*pool)->begin().has_value());
    auto started = fault::Server::start(*pool, *vm_, source_, GroupId{}, 1);
    REQUIRE(started.has_value());
    successor_ = std::move(*started);
    vm_->wake_all();
  }
  void discard() { guest_->tell("allocate 0 3 36864 4096"); }
  bool waits() { return !guest_->answer_within(kSoonMs); }
  Answer answer() {
    const auto got = guest_->answer_within(agent_test::kWaitMs);
    REQUIRE(got);
    return *got;
  }
  long peek() { return guest_->good(kPeek); }

 private:
  void order(char what) { REQUIRE(::write(orders_.ends[0], &what, 1) == 1); }

  Memory memory_;
  Pair fill_, orders_;
  std::string socket_;
  pid_t first_ = -1;
  std::unique_ptr<agent_test::Guest> guest_;
  Folded folded_{};
  sys::Fd uffd_, ram_;
  OneContent source_;
  std::unique_ptr<guest::Vm> vm_;
  std::unique_ptr<fault::Server> successor_;
};

}  // namespace

TEST_CASE("T5: a discard beside a fill waits for it, and what comes after is zero") {
  for (const Path path : {Path::fault, Path::unfold}) {
    Scene scene(path);
    scene.fill_has('l');
    scene.discard();
    REQUIRE(scene.waits() == kTold);
    scene.go();
    scene.fill_has('c');
    if (kTold) CHECK(scene.waits());
    scene.go();
    scene.fill_has('d');
    if (kTold) CHECK(scene.answer() == Answer{0, 0});
    scene.succeed();
    CHECK(scene.peek() == (kTold ? 0 : kOld));
  }
}

TEST_CASE(
    "T5: a daemon killed between its look at the bit and the end of its COPY leaves no old bytes") {
  for (const char last : {'l', 'c'}) {
    Scene scene(Path::fault);
    scene.fill_has('l');
    scene.discard();
    REQUIRE(scene.waits() == kTold);
    if (last == 'c') {
      scene.go();
      scene.fill_has('c');
    }
    scene.kill_first();
    if (kTold) CHECK(scene.answer() == Answer{0, 0});
    scene.succeed();
    CHECK(scene.peek() == (kTold || last == 'l' ? 0 : kOld));
  }
}

#ifndef RAMFOLD_TEST_NO_FILLING

TEST_CASE("T5: the fill of a daemon that hung up without dying is waited for") {
  Scene scene(Path::fault);
  scene.fill_has('l');
  scene.hang_up();
  ::usleep(kSoonMs * 1000);
  scene.discard();
  CHECK(scene.waits());
  scene.go();
  scene.fill_has('c');
  CHECK(scene.waits());
  scene.go();
  CHECK(scene.answer() == Answer{0, 0});
  scene.succeed();
  CHECK(scene.peek() == 0);
}

TEST_CASE("T5: beside a stopped daemon a discard fails and the page keeps its bytes") {
  Scene scene(Path::fault, {"RAMFOLD_HOLD_MS=300"});
  scene.fill_has('l');
  scene.signal_first(SIGSTOP);
  scene.discard();
  CHECK(scene.answer() == Answer{-1, EBUSY});
  scene.signal_first(SIGCONT);
  scene.go();
  scene.fill_has('c');
  scene.go();
  scene.fill_has('d');
  CHECK(scene.peek() == kOld);
}

#endif
