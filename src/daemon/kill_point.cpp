// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/kill_point.hpp"

#include <unistd.h>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/test_points.hpp"

namespace ramfold::daemon {
namespace {

std::string g_name;
std::atomic<long> g_left{0};

void reached(const char* name) {
  if (std::strcmp(name, g_name.c_str()) != 0) return;
  if (g_left.fetch_sub(1) == 1) ::kill(::getpid(), SIGKILL);
}

}  // namespace

void arm_kill_point() {
  const char* text = std::getenv("RAMFOLD_KILL_AT");
  if (text == nullptr) return;
  const std::string value(text);
  const std::size_t colon = value.find(':');
  g_name = value.substr(0, colon);
  g_left.store(colon == std::string::npos ? 1
                                          : std::strtol(value.c_str() + colon + 1, nullptr, 10));
  test_point_hook.store(reached);
}

}  // namespace ramfold::daemon
