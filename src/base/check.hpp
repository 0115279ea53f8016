// SPDX-License-Identifier: GPL-2.0-or-later
// ENSURE(condition) aborts the process when the condition is false, in every build. A false
// condition is a bug. Aborting is safe, because the keeper and the agent hold what the next daemon
// needs (docs/design.md, "After a crash"); going on with a broken invariant is not. DENSURE is the
// same for hot loops: only builds with meson -Dchecks=true check it. The condition has no side
// effects. (The name CHECK belongs to the test framework.)
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
