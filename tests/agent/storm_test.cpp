// SPDX-License-Identifier: GPL-2.0-or-later
// Requests to unfold under load: threads of the program make calls that a folded page would not
// survive, while a daemon folds as fast as it may, answers them, attaches the program anew, dies
// and returns. Whenever the daemon folds, no such call may be under way.
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <memory>
#include <random>

#include "fake_daemon.hpp"

using namespace agent_test;

namespace {

struct Words {
  std::atomic<long> live, stop, rounds, refused;
};

// The daemon's side of one program, over all its attachments.
class Folder {
 public:
  Folder(Daemon& daemon, const Words& words) : daemon_(daemon), words_(words) {
    shared_ = std::make_unique<Shared>(kPages, generation_);
    daemon_.attached_from_scratch(*shared_, generation_);
  }

  void fold() {
    if (released_) return;
    for (int i = 0; i < 50; ++i)
      if (words_.live != 0) ++violations;
    ++runs;
  }
  void answer() {
    while (const auto packet = daemon_.receive_within(0)) {
      if (packet->type() != RF_UNFOLD) continue;
      released_ = true;  // from here on nothing is folded
      rf_unfolded message{};
      message.token = packet->as<rf_unfold>().token;
      message.ok = 1;
      daemon_.send(&message, sizeof message, RF_UNFOLDED, generation_);
      ++unfolds;
    }
  }
  void attach_anew() {
    rf_bare detached{};
    daemon_.send(&detached, sizeof detached, RF_DETACHED, generation_);
    former_ = std::exchange(shared_, std::make_unique<Shared>(kPages, generation_));
    ++instance_;
    resume();
    released_ = false;
  }
  void die_and_return(unsigned absent_us) {
    daemon_.die();
    ::usleep(absent_us);
    daemon_.listen();
    daemon_.hello();
    (*shared_)->session = ++generation_;
    resume();
  }
  [[nodiscard]] bool released() const { return released_; }
  [[nodiscard]] const rf_shared& shared() const { return *shared_->operator->(); }
  long runs = 0, violations = 0, unfolds = 0;

 private:
  static constexpr uint64_t kPages = 256;

  void resume() {
    rf_welcome welcome{};
    welcome.version = RF_VERSION_MAX;
    welcome.action = RF_ACTION_RESUME;
    for (unsigned i = 0; i < 4; ++i) welcome.instance[i] = static_cast<uint8_t>(instance_ >> 8 * i);
    daemon_.send(&welcome, sizeof welcome, RF_WELCOME, generation_, shared_->fd());
    // Requests of the attachment that is over may come first: DETACHED has answered them.
    while (daemon_.receive().type() != RF_READY) {
    }
  }

  Daemon& daemon_;
  const Words& words_;
  std::unique_ptr<Shared> shared_, former_;
  uint32_t generation_ = 1, instance_ = 0;
  bool released_ = false;
};

}  // namespace

TEST_CASE("nothing is folded while a call is under way that a folded page would not survive") {
  Fd memory(::memfd_create("storm", MFD_CLOEXEC));
  REQUIRE(::ftruncate(memory.get(), 4096) == 0);
  auto* words = static_cast<Words*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0));
  REQUIRE(words != MAP_FAILED);

  Daemon daemon(temporary_directory() + "/agent.sock");
  Guest::Options options;
  options.preload = SLOW_PUNCH;
  options.extra_fd = memory.get();
  options.environment.push_back("RF_TEST_LIVE=" + std::to_string(memory.get()));
  Guest guest(daemon.path(), std::move(options));
  guest.good("ram 0 1048576");
  guest.good("allocate 0 0 0 4096");  // before the hello, which says whether this has happened
  Folder folder(daemon, *words);
  guest.tell("storm " + std::to_string(memory.get()));

  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::minstd_rand random(seed);
  const auto below = [&](unsigned limit) { return static_cast<unsigned>(random() % limit); };
  long deaths = 0;
  using std::chrono::milliseconds;
  using std::chrono::steady_clock;
  const auto until = steady_clock::now() + std::chrono::seconds(6);
  auto next_death = steady_clock::now() + milliseconds(100);
  while (steady_clock::now() < until) {
    folder.fold();
    folder.answer();
    if (steady_clock::now() > next_death) {
      folder.die_and_return(below(20'000));
      ++deaths;
      next_death = steady_clock::now() + milliseconds(below(200));
    } else if (folder.released() && below(4) == 0) {
      folder.attach_anew();
    }
  }
  words->stop = 1;
  std::optional<Answer> end;
  for (int ms = 0; ms < kWaitMs && !end; ms += 10) {
    folder.answer();
    end = guest.answer_within(10);
  }
  CHECK(end == Answer{0, 0});
  CHECK(folder.violations == 0);
  CHECK(folder.runs > 100);
  CHECK(folder.unfolds > 100);
  CHECK(words->rounds > 100);
  CHECK(words->refused == 0);
  CHECK(deaths > 3);
  CHECK(folder.shared().discards_active == 0);
  WARN(folder.runs << " runs, " << folder.unfolds << " requests, " << words->rounds << " calls, "
                   << deaths << " deaths");
}
