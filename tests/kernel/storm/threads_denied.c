/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Preloaded into the daemon: while the file $RAMFOLD_THREADS_DENIED is there it gets no threads, as
   when its unit has as many tasks as it may have. Threads: any. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*create_t)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

__attribute__((visibility("default"))) int pthread_create(pthread_t *thread,
                                                          const pthread_attr_t *attributes,
                                                          void *(*start)(void *), void *argument) {
  const char *const path = getenv("RAMFOLD_THREADS_DENIED");
  if (path != NULL && access(path, F_OK) == 0) return EAGAIN;
  void *const found = dlsym(RTLD_NEXT, "pthread_create");
  create_t create;
  memcpy(&create, &found, sizeof create);
  return create(thread, attributes, start, argument);
}
