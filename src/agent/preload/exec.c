/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec in the VM's own process ends its mappings and the agent with them: nothing may be folded
 * then. libc's variants call each other inside libc, where no call can be interposed, so each
 * variant is interposed. Calls of children made by fork, vfork or posix_spawn pass: those are not
 * at home.
 */
#include "agent/core/raw.h"
#include "agent/preload/interpose.h"
#include "agent/preload/real.h"

#include <alloca.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

extern char **environ;

/* Only failure comes back from an exec. */
#define BEFORE_EXEC(call_of_exec)                                 \
  do {                                                            \
    struct rf_hazard_call call;                                   \
    const bool active = rf_active();                              \
    if (active && rf_hazard_unfold(&call, RF_HAZARD_EXEC) != 0) { \
      errno = EBUSY;                                              \
      return -1;                                                  \
    }                                                             \
    const int result = (call_of_exec);                            \
    const int saved = errno;                                      \
    if (active) rf_hazard_done(&call, false);                     \
    errno = saved;                                                \
    return result;                                                \
  } while (0)

static int replace(const char *path, char *const arguments[], char *const environment[]) {
  BEFORE_EXEC(rf_real_execve(path, arguments, environment));
}

static int search(const char *file, char *const arguments[], char *const environment[]) {
  BEFORE_EXEC(rf_real_execvpe(file, arguments, environment));
}

RF_EXPORT int execve(const char *path, char *const arguments[], char *const environment[]) {
  return replace(path, arguments, environment);
}
RF_EXPORT int execv(const char *path, char *const arguments[]) {
  return replace(path, arguments, environ);
}
RF_EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[]) {
  return search(file, arguments, environment);
}
RF_EXPORT int execvp(const char *file, char *const arguments[]) {
  return search(file, arguments, environ);
}

RF_EXPORT int fexecve(int fd, char *const arguments[], char *const environment[]) {
  BEFORE_EXEC((int)rf_result(
      rf_raw6(SYS_execveat, fd, (long)"", (long)arguments, (long)environment, AT_EMPTY_PATH, 0)));
}

RF_EXPORT int execveat(int dir, const char *path, char *const arguments[],
                       char *const environment[], int flags) {
  BEFORE_EXEC((int)rf_result(
      rf_raw6(SYS_execveat, dir, (long)path, (long)arguments, (long)environment, flags, 0)));
}

/* The list of arguments as an array, on the stack as in libc: a vfork child may be calling. */
#define COLLECT(first, arguments, list)                                        \
  do {                                                                         \
    size_t count = 1;                                                          \
    va_list counted;                                                           \
    va_start(list, first);                                                     \
    va_copy(counted, list);                                                    \
    while (va_arg(counted, char *) != NULL) ++count;                           \
    va_end(counted);                                                           \
    (arguments) = alloca((count + 1) * sizeof(char *));                        \
    (arguments)[0] = (char *)(first);                                          \
    for (size_t i = 1; i <= count; ++i) (arguments)[i] = va_arg(list, char *); \
  } while (0)

RF_EXPORT int execl(const char *path, const char *first, ...) {
  va_list list;
  char **arguments;
  COLLECT(first, arguments, list);
  va_end(list);
  return replace(path, arguments, environ);
}

RF_EXPORT int execlp(const char *file, const char *first, ...) {
  va_list list;
  char **arguments;
  COLLECT(first, arguments, list);
  va_end(list);
  return search(file, arguments, environ);
}

RF_EXPORT int execle(const char *path, const char *first, ...) {
  va_list list;
  char **arguments;
  COLLECT(first, arguments, list);
  char *const *environment = va_arg(list, char *const *);
  va_end(list);
  return replace(path, arguments, environment);
}
