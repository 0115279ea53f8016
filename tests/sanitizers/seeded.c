// SPDX-License-Identifier: GPL-2.0-or-later
// Errors on purpose, for each sanitizer, in a process that ends as if all were well: as a program,
// and as a library whose constructor makes the error inside whatever it is preloaded into.
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile int sink;

static void use_after_free(void) {
  int *volatile gone = malloc(sizeof *gone);
  free(gone);
  sink = *gone;
}

static void heap_overflow(void) {
  char *volatile block = malloc(16);
  block[16] = 1;
  free(block);
}

static void overflow(void) {
  volatile int most = INT_MAX;
  sink = most + 1;
}

static int raced;

static void *write_raced(void *unused) {
  (void)unused;
  for (int i = 0; i < 1000; ++i) ++raced;
  return NULL;
}

static void race(void) {
  pthread_t other;
  pthread_create(&other, NULL, write_raced, NULL);
  write_raced(NULL);
  pthread_join(other, NULL);
}

static void make(const char *error) {
  if (strcmp(error, "address") == 0) heap_overflow();
  if (strcmp(error, "freed") == 0) use_after_free();
  if (strcmp(error, "undefined") == 0) overflow();
  if (strcmp(error, "thread") == 0) race();
}

#ifdef SEEDED_LIBRARY
__attribute__((constructor)) static void loaded(void) {
  const char *error = getenv("SEEDED_ERROR");
  if (error != NULL) make(error);
}
#else
// The error is made by a child whose status nobody looks at.
int main(int argc, char **argv) {
  const pid_t child = fork();
  if (child == 0) {
    if (argc > 1) make(argv[1]);
    _exit(0);
  }
  waitpid(child, NULL, 0);
  return 0;
}
#endif
