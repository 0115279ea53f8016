// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/undertaker.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <fstream>
#include <map>
#include <mutex>

#include "daemon/threads/apart.hpp"
#include "patience.hpp"
#include "sys/thread.hpp"
#include "unit/bare_vm.hpp"
#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using test::soon;

namespace {

constexpr std::uint64_t kNever = 3'600'000'000'000;  // longer than any test waits
constexpr std::uint64_t kMs = 1'000'000;
constexpr uid_t kFirst = 100'000;  // and some ids after it: one account
constexpr uid_t kSecond = 200'000;

// An undertaker; the burials of the first account are held up until let_go().
class Yard {
 public:
  explicit Yard(Undertaker::Patience patience) : patience_(patience) {}
  ~Yard() {
    let_go();
    undertaker.stop();
    (void)soon([] { return count_apart() == 0; });  // burials use this
  }
  Yard(const Yard&) = delete;
  Yard& operator=(const Yard&) = delete;

  void add(std::uint32_t id, uid_t uid) {
    VmHandle vm = test::bare_vm(PageCount{1}, id, uid);
    {
      const std::lock_guard lock(mutex_);
      vms_.emplace(id, vm);
    }
    undertaker.add(std::move(vm));
  }
  void let_go() { held_ = false; }
  unsigned begun() const { return begun_; }
  unsigned ended() const { return ended_; }
  // VMs that have been let go of.
  bool none_left() {
    const std::lock_guard lock(mutex_);
    return std::ranges::all_of(vms_, [](const auto& vm) { return vm.second.expired(); });
  }

 private:
  void bury(VmHandle vm) {
    ++begun_;
    const bool first = vm->vm->record().uid < kSecond;
    vm.reset();
    while (first && held_) ::usleep(1000);
    ++ended_;
  }

  const TempDir dir_;
  const Undertaker::Patience patience_;
  std::mutex mutex_;
  std::map<std::uint32_t, std::weak_ptr<AttachedVm>> vms_;
  std::atomic<unsigned> begun_{0};
  std::atomic<bool> held_{true};
  std::atomic<unsigned> ended_{0};
  Keeping keeping_{dir_ / "no keeper"};
  sys::SubordinateIds ids() const {
    std::ofstream(dir_ / "subuid") << "one:" << kFirst << ":1000\n";
    return sys::SubordinateIds(dir_ / "subuid");
  }

 public:
  Undertaker undertaker{keeping_, [this](VmHandle vm) { bury(std::move(vm)); }, patience_, ids()};
};

}  // namespace

TEST_CASE("undertaker: VMs of one owner that are held up do not delay those of another") {
  Yard yard({kNever, kNever});
  REQUIRE(yard.undertaker.begin().has_value());
  for (std::uint32_t id = 1; id <= 8; ++id) yard.add(id, kFirst + id);
  for (std::uint32_t id = 11; id <= 13; ++id) yard.add(id, kSecond);
  CHECK(soon([&] { return yard.ended() == 3; }));
  CHECK(soon([&] { return yard.begun() == 4; }));  // one of the first owner
  yard.let_go();
  yard.undertaker.drain();
  CHECK(yard.ended() == 11);
  CHECK(yard.none_left());
}

TEST_CASE("undertaker: a VM that is held up delays its owner's next for a moment") {
  Yard yard({kMs, kMs});
  REQUIRE(yard.undertaker.begin().has_value());
  for (std::uint32_t id = 1; id <= 8; ++id) yard.add(id, kFirst);
  CHECK(soon([&] { return yard.begun() == 8; }));
  yard.undertaker.drain();  // does not wait for those that are held up
  CHECK(yard.ended() == 0);
}

TEST_CASE("undertaker: VMs wait for its thread, and for threads of their own") {
  Yard yard({kNever, kNever});
  yard.let_go();
  yard.add(1, kFirst);
  sys::set_thread_injector([](const char*) noexcept { return EAGAIN; });
  const Status begun = yard.undertaker.begin();
  CHECK_FALSE(begun.has_value());
  sys::set_thread_injector(nullptr);
  CHECK(yard.undertaker.begin().has_value());
  CHECK(yard.undertaker.begin().has_value());  // it runs already
  yard.undertaker.drain();
  CHECK(yard.ended() == 1);

  static std::atomic<unsigned> refused{0};
  sys::set_thread_injector([](const char*) noexcept {
    ++refused;
    return EAGAIN;
  });
  yard.add(2, kFirst);
  CHECK(soon([] { return refused != 0; }));
  CHECK(yard.ended() == 1);
  sys::set_thread_injector(nullptr);
  yard.undertaker.drain();
  CHECK(yard.ended() == 2);
  CHECK(yard.none_left());
}

TEST_CASE("undertaker: its end waits for no VM that is held up, and begins no other") {
  Yard yard({kNever, kNever});
  REQUIRE(yard.undertaker.begin().has_value());
  yard.add(1, kFirst);
  CHECK(soon([&] { return yard.begun() == 1; }));
  yard.add(2, kFirst);
  yard.undertaker.stop();
  yard.add(3, kSecond);
  yard.undertaker.drain();  // does not wait for what will not be done
  CHECK(yard.ended() == 0);
  CHECK(yard.begun() == 1);
  yard.let_go();
  CHECK(soon([&] { return yard.ended() == 1; }));
  CHECK(yard.begun() == 1);
}
