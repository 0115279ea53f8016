// SPDX-License-Identifier: GPL-2.0-or-later
// CHECK: a bug stops the daemon at once (always on); the keeper, the agent and the rules of truth
// make that safe, going on with a broken invariant would not be. DCHECK: the same in hot loops, on in
// debug, sanitizer and fuzz builds (meson -Dchecks=true). No side effects inside either.
#pragma once

namespace ramfold {
// Prints to stderr (async-signal-safe, no allocation) and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* what) noexcept;
}  // namespace ramfold

#define CHECK(cond) \
  (__builtin_expect(!!(cond), 1) ? void(0) : ::ramfold::check_failed(__FILE__, __LINE__, #cond))

#ifdef RAMFOLD_DCHECK
#define DCHECK(cond) CHECK(cond)
#else
#define DCHECK(cond) (void(sizeof((cond) ? 1 : 0)))
#endif
