// SPDX-License-Identifier: GPL-2.0-or-later
// ENSURE: a bug stops the daemon at once (always on); the keeper, the agent and the rules of truth
// make that safe, going on with a broken invariant would not be. DENSURE: the same in hot loops, on
// in debug, sanitizer and fuzz builds (meson -Dchecks=true). No side effects inside either. (Not
// CHECK: that name is the test framework's.)
#pragma once

namespace ramfold {
// Prints to stderr (async-signal-safe, no allocation) and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* what) noexcept;
}  // namespace ramfold

#define ENSURE(cond) \
  (__builtin_expect(!!(cond), 1) ? void(0) : ::ramfold::check_failed(__FILE__, __LINE__, #cond))

#ifdef RAMFOLD_DENSURE
#define DENSURE(cond) ENSURE(cond)
#else
#define DENSURE(cond) (void(sizeof((cond) ? 1 : 0)))
#endif
