// SPDX-License-Identifier: GPL-2.0-or-later
// Makes every call fail with every errno, once and for a while: no thread of the guest waits longer
// than a second, and no byte is wrong. ESRCH is left out: it means that the process has ended (D8),
// so no thread waits.
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "kernel/fold_rig.hpp"
#include "sys/uffd.hpp"

using namespace ramfold;
using sys::Call;
using test::GuestProcess;
using test::Rig;

namespace {

constexpr std::uint64_t kPages = 32;
constexpr int kAnswerMs = 1000;

struct Injection {
  std::atomic<int> call{-1};
  std::atomic<int> error{0};
  std::atomic<int> left{0};
  std::atomic<std::uint64_t> until_ns{0};
  std::atomic<unsigned> done{0};
} g_injection;

int inject(Call call) noexcept {
  if (static_cast<int>(call) != g_injection.call.load()) return 0;
  if (g_injection.left.fetch_sub(1) > 0 || monotonic_ns() < g_injection.until_ns.load()) {
    ++g_injection.done;
    return g_injection.error.load();
  }
  return 0;
}

enum class How { once, for_a_while };

class Injected {
 public:
  Injected(Call call, int error, How how) {
    g_injection.error = error;
    g_injection.left = how == How::once ? 1 : 0;
    g_injection.until_ns = how == How::once ? 0 : monotonic_ns() + 20'000'000;
    g_injection.call = static_cast<int>(call);
    sys::set_injector(inject);
  }
  ~Injected() {
    sys::set_injector(nullptr);
    g_injection.call = -1;
  }
};

std::uint64_t seed_of(std::uint64_t p) { return p % 4 == 0 ? 0 : p % 7 + 1; }

// An access that ends in time. False: the guest waits.
bool access(Rig& rig, GuestProcess::Op op, std::uint64_t p, std::uint64_t seed,
            std::uint64_t& value) {
  rig.process->ask(op, PageIndex{p}, seed);
  return rig.process->answer(value, kAnswerMs);
}

void reads(Rig& rig, std::uint64_t p, std::uint64_t seed) {
  std::uint64_t value = 0;
  REQUIRE(access(rig, GuestProcess::Op::load, p, 0, value));
  REQUIRE(value == GuestProcess::checksum(seed));
}

void writes(Rig& rig, std::uint64_t p, std::uint64_t seed) {
  std::uint64_t value = 0;
  REQUIRE(access(rig, GuestProcess::Op::store, p, seed, value));
}

const char* name_of(Call call) {
  constexpr std::array kNames{"reg",    "unreg", "guard", "lift",  "copy",  "zero",
                              "poison", "wake",  "read",  "pread", "punch", "scan"};
  return kNames[static_cast<std::size_t>(call)];
}

constexpr std::array kErrors{EINVAL, ENOENT, EFAULT, EAGAIN, ENOMEM,
                             EEXIST, EIO,    EPERM,  EINTR,  EBUSY};

}  // namespace

TEST_CASE("every errno at every call leaves no waiter and no wrong byte") {
  Rig rig(kPages + 64);
  unsigned reached = 0;
  for (const Call call : {Call::reg, Call::guard, Call::lift, Call::copy, Call::zero, Call::wake,
                          Call::read, Call::pread, Call::punch, Call::scan}) {
    for (const int error : kErrors) {
      for (const How how : {How::once, How::for_a_while}) {
        INFO(name_of(call) << " fails with " << strerrorname_np(error)
                           << (how == How::once ? " once" : " for 20 ms"));
        for (std::uint64_t p = 0; p < kPages; ++p) writes(rig, p, seed_of(p));
        rig.fold_until(kPages);
        g_injection.done = 0;
        {
          const Injected injected(call, error, how);
          // Up: reads and writes of contents and zeros, a write to a clean page, a discard.
          reads(rig, 1, seed_of(1));
          reads(rig, 4, seed_of(4));
          writes(rig, 2, 50);
          writes(rig, 8, 51);
          writes(rig, 1, 52);
          rig.set_discard_bit(3);
          rig.process->discard(PageIndex{3});
          reads(rig, 3, 0);
          writes(rig, 3, 53);
          // Down, and up again.
          rig.fold_all();
          reads(rig, 2, 50);
          rig.pass();
        }
        reached += g_injection.done;
        for (std::uint64_t p = 0; p < kPages; ++p) {
          const std::uint64_t want = p == 1   ? 52
                                     : p == 2 ? 50
                                     : p == 3 ? 53
                                     : p == 8 ? 51
                                              : seed_of(p);
          reads(rig, p, want);
        }
        reads(rig, kPages, 0);
      }
    }
  }
  CHECK(reached > 300);
}

TEST_CASE("every errno in the middle of a run leaves no waiter and no wrong byte") {
  constexpr std::uint64_t kMany = 64;
  Rig rig(kMany);
  for (const Call call : {Call::copy, Call::wake, Call::lift, Call::read}) {
    for (const int error : kErrors) {
      for (const How how : {How::once, How::for_a_while}) {
        INFO(name_of(call) << " fails with " << strerrorname_np(error)
                           << (how == How::once ? " once" : " for 20 ms"));
        for (std::uint64_t p = 0; p < kMany; ++p) writes(rig, p, seed_of(p));
        rig.fold_until(kMany);
        for (const std::uint64_t p : {0, 1, 2, 4, 8}) reads(rig, p, seed_of(p));
        REQUIRE(rig.tag(16) == guest::Tag::folded);
        const auto brought = rig.vm->counters().neighbours_brought.get();
        {
          const Injected injected(call, error, how);
          for (std::uint64_t p = 16; p < kMany; ++p) reads(rig, p, seed_of(p));
          writes(rig, 20, 50);
        }
        CHECK(rig.vm->counters().neighbours_brought.get() > brought);
        for (std::uint64_t p = 0; p < kMany; ++p) reads(rig, p, p == 20 ? 50 : seed_of(p));
      }
    }
  }
}

TEST_CASE("a registration that fails folds nothing, and is tried again") {
  for (const int error : kErrors) {
    Rig rig(kPages);
    INFO(strerrorname_np(error));
    for (std::uint64_t p = 0; p < kPages; ++p) writes(rig, p, seed_of(p));
    {
      const Injected injected(Call::reg, error, How::once);
      rig.pass();
      rig.pass();
    }
    rig.fold_until(kPages);
    for (std::uint64_t p = 0; p < kPages; ++p) reads(rig, p, seed_of(p));
  }
}

TEST_CASE("detaching under errors ends in all bytes back, or says that it has not") {
  for (const Call call : {Call::copy, Call::lift, Call::unreg}) {
    for (const int error : {EINVAL, ENOENT, EAGAIN, ENOMEM, EIO}) {
      Rig rig(kPages);
      INFO(name_of(call) << " " << strerrorname_np(error));
      for (std::uint64_t p = 0; p < kPages; ++p) writes(rig, p, seed_of(p));
      rig.fold_until(kPages);
      rig.vm->gate().close();
      fault::FillerThread me(rig.vm->fillings()[guest::Fillings::kUnfolder]);
      {
        const Injected injected(call, error, How::once);
        for (int round = 0; round < 3; ++round) {
          for (std::uint64_t p = 0; p < kPages; ++p) {
            if (rig.vm->table().load(PageIndex{p})->names_content())
              (void)rig.faults->filler().unfold(PageIndex{p}, {}, me);
          }
        }
        for (std::uint64_t p = 0; p < kPages; ++p)
          REQUIRE_FALSE(rig.vm->table().load(PageIndex{p})->names_content());
        bool done = false;
        for (int i = 0; i < 3 && !done; ++i) done = rig.vm->unregister_all().has_value();
        REQUIRE(done);
        rig.vm->wake_all();
      }
      rig.faults->stop();
      for (std::uint64_t p = 0; p < kPages; ++p) {
        reads(rig, p, seed_of(p));
        writes(rig, p, 90 + p);
        reads(rig, p, 90 + p);
      }
    }
  }
}
