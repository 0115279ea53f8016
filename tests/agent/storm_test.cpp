// SPDX-License-Identifier: GPL-2.0-or-later
// The gate under load: threads of the program open and close O_DIRECT descriptors while a daemon
// runs as fast as it may, dies in the middle of runs and returns. Whenever a run is past its last
// look at the gate, no thread may be in possession of such a descriptor.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <random>

#include "fake_daemon.hpp"

using namespace agent_test;

namespace {

struct Words {
  std::atomic<long> live, stop, rounds, refused;
};

// The facts, as the daemon reads them: is any descriptor of the process O_DIRECT?
bool foldable(pid_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid) + "/fdinfo";
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return false;
  bool clean = true;
  while (const dirent* entry = ::readdir(entries)) {
    if (entry->d_name[0] == '.') continue;
    std::ifstream file(directory + "/" + entry->d_name);
    std::string word;
    while (file >> word)
      if (word == "flags:") {
        unsigned flags = 0;
        file >> std::oct >> flags;
        clean = clean && (flags & O_DIRECT) == 0;
        break;
      }
  }
  ::closedir(entries);
  return clean;
}

class Folder {
 public:
  Folder(Shared& shared, const Words& words, pid_t pid)
      : shared_(shared), words_(words), pid_(pid) {}

  // One run; true when it passed the gate. `die` leaves it unfinished after its punch.
  bool run(bool die) {
    shared_->runs_active += 1;
    const bool passed = agrees() && agrees();
    if (passed) {
      for (int i = 0; i < 50; ++i)
        if (words_.live != 0) ++violations;
      ++runs;
    }
    if (!die) shared_->runs_active -= 1;
    if (!passed) look();
    return passed;
  }
  void look() {
    const uint32_t sequence = shared_->sequence;
    if (shared_->pending != 0) {
      open_ = false;
      return;
    }
    open_ = foldable(pid_);
    sequence_ = sequence;
  }
  long runs = 0, violations = 0;

 private:
  bool agrees() const { return open_ && shared_->pending == 0 && shared_->sequence == sequence_; }
  Shared& shared_;
  const Words& words_;
  pid_t pid_;
  bool open_ = false;
  uint32_t sequence_ = 0;
};

}  // namespace

TEST_CASE("no run is past the gate while a thread holds what ends it") {
  Fd memory(::memfd_create("storm", MFD_CLOEXEC));
  REQUIRE(::ftruncate(memory.get(), 4096) == 0);
  auto* words = static_cast<Words*>(
      ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0));
  REQUIRE(words != MAP_FAILED);

  Daemon daemon(temporary_directory() + "/agent.sock");
  Guest::Options options;
  options.extra_fd = memory.get();
  Guest guest(daemon.path(), std::move(options));
  guest.good("ram 0 1048576");
  Shared shared(256, 1);
  daemon.attached_from_scratch(shared, 1);
  guest.tell("storm " + std::to_string(memory.get()));

  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::minstd_rand random(seed);
  const auto below = [&](unsigned limit) { return static_cast<unsigned>(random() % limit); };
  Folder folder(shared, *words, guest.pid);
  uint32_t generation = 1;
  long deaths = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(6);
  auto next_death = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  while (std::chrono::steady_clock::now() < until) {
    const bool die = std::chrono::steady_clock::now() > next_death;
    folder.run(die);
    while (daemon.receive_within(0)) {
    }
    if (!die) continue;
    ++deaths;
    daemon.die();
    ::usleep(below(20'000));
    daemon.listen();
    daemon.hello();
    shared->runs_active = 0;
    shared->session = ++generation;
    daemon.welcome(RF_ACTION_RESUME, generation, shared.fd());
    daemon.expect(RF_READY);
    folder.look();
    next_death = std::chrono::steady_clock::now() + std::chrono::milliseconds(below(200));
  }
  words->stop = 1;
  CHECK(guest.answer_within(kWaitMs) == Answer{0, 0});
  CHECK(folder.violations == 0);
  CHECK(folder.runs > 100);
  CHECK(words->rounds > 100);
  CHECK(words->refused == 0);
  CHECK(deaths > 3);
  CHECK(shared->pending == 0);
  CHECK(shared->discards_active == 0);
  WARN(folder.runs << " runs, " << words->rounds << " hazards, " << deaths << " deaths");
}
