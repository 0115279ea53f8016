// SPDX-License-Identifier: GPL-2.0-or-later
// A child process that a test kills with SIGKILL: when it reaches a test point, or at a random
// moment. What both must see lies in Shared.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "base/test_points.hpp"
#include "random.hpp"

#ifndef RAMFOLD_TEST_POINTS
#error "built against the store with test points"
#endif

namespace ramfold::store::test {

// A T of zeros that this process and its children share.
template <typename T>
class Shared {
 public:
  Shared() {
    void* at =
        ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw std::runtime_error("mmap");
    at_ = static_cast<T*>(at);
  }
  ~Shared() { ::munmap(at_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T& operator*() const noexcept { return *at_; }

 private:
  T* at_;
};

struct Death {
  const char* point = nullptr;  // or a random moment
  std::int64_t hits = 0;        // the process dies when it reaches the point this often
};

// Of a child.
inline Death death;
inline std::atomic<std::int64_t> hits_left{0};

inline void kill_at_the_point(const char* name) {
  if (death.point == nullptr || std::strcmp(death.point, name) != 0) return;
  if (hits_left.fetch_sub(1) == 1) ::raise(SIGKILL);
}

// Runs `live`, which never returns, in a child until its death.
template <typename Live>
void live_and_die(const Death& how, Random& random, Live live) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    death = how;
    hits_left.store(how.hits);
    test_point_hook.store(kill_at_the_point);
    live();
    ::_exit(1);
  }
  if (how.point == nullptr) {
    ::usleep(static_cast<useconds_t>(random.below(30'000)));
    ::kill(child, SIGKILL);
  }
  int status = 0;
  for (int waited_ms = 0; ::waitpid(child, &status, WNOHANG) == 0; ++waited_ms) {
    if (waited_ms == 20'000) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      FAIL("the test point " << (how.point == nullptr ? "(none)" : how.point)
                             << " was not reached");
    }
    ::usleep(1000);
  }
  INFO("status " << status);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(WTERMSIG(status) == SIGKILL);
}

}  // namespace ramfold::store::test
