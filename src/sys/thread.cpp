// SPDX-License-Identifier: GPL-2.0-or-later
#include "sys/thread.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "sys/fd.hpp"
#include "sys/procfs_text.hpp"
#include "sys/thread_name.hpp"

namespace ramfold::sys {
namespace {

struct Begin {
  std::array<char, 16> name{};
  std::function<void()> run;
};

void* begin(void* given) {
  std::unique_ptr<Begin> what(static_cast<Begin*>(given));
  name_this_thread(what->name.data());
  what->run();
  return nullptr;  // `run` and what it captured are destroyed here, on this thread
}

#ifdef RAMFOLD_TEST_POINTS
std::atomic<ThreadInjector> g_injector{nullptr};

int injected_for(const char* name) noexcept {
  const ThreadInjector injector = g_injector.load();
  return injector == nullptr ? 0 : injector(name);
}
#else
int injected_for(const char* /*name*/) noexcept { return 0; }
#endif

}  // namespace

bool is_runnable(pid_t tid) noexcept {
  std::array<char, 48> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/task/%d/stat", tid);
  const Fd file(::open(path.data(), O_RDONLY | O_CLOEXEC));
  std::array<char, 128> line{};
  const ssize_t n = file ? ::read(file.get(), line.data(), line.size()) : -1;
  if (n <= 0) return false;
  std::string_view rest = text::after_command({line.data(), static_cast<std::size_t>(n)});
  return text::word(rest) == "R";
}

void set_thread_injector([[maybe_unused]] ThreadInjector injector) noexcept {
#ifdef RAMFOLD_TEST_POINTS
  g_injector.store(injector);
#endif
}

Result<Thread> Thread::start(const char* name, std::function<void()> run) {
  auto what = std::make_unique<Begin>();
  std::strncpy(what->name.data(), name, what->name.size() - 1);
  what->run = std::move(run);
  int code = injected_for(name);
  pthread_t handle{};
  if (code == 0) code = ::pthread_create(&handle, nullptr, begin, what.get());
  if (code != 0) return fail(std::string("start the thread ") + name, code);
  static_cast<void>(what.release());
  return Thread(handle);
}

void Thread::join() noexcept {
  if (std::exchange(is_there_, false)) ::pthread_join(handle_, nullptr);
}

void Thread::leave() noexcept {
  if (std::exchange(is_there_, false)) ::pthread_detach(handle_);
}

}  // namespace ramfold::sys
