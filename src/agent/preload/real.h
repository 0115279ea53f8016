/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The functions of libc that the agent interposes. They are looked up once, in the library's
 * constructor; a call that comes before (from another library's constructor, or from inside the
 * look-up itself) goes straight to the kernel, so nothing here can recurse or wait.
 *
 * Threads: any. errno as libc's functions leave it.
 */
#ifndef RAMFOLD_AGENT_PRELOAD_REAL_H
#define RAMFOLD_AGENT_PRELOAD_REAL_H

#include <sys/socket.h>
#include <sys/types.h>

void *rf_real_mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset);
int rf_real_munmap(void *at, size_t size);
void *rf_real_mremap(void *at, size_t size, size_t new_size, int flags, void *new_at);
int rf_real_madvise(void *at, size_t size, int advice);
int rf_real_mlock(const void *at, size_t size);
int rf_real_mlock2(const void *at, size_t size, unsigned flags);
int rf_real_mlockall(int flags);
int rf_real_fallocate(int fd, int mode, off_t offset, off_t size);
int rf_real_ftruncate(int fd, off_t size);
int rf_real_close(int fd);
int rf_real_close_range(unsigned first, unsigned last, int flags);
int rf_real_dup3(int fd, int new_fd, int flags);
int rf_real_dup2(int fd, int new_fd);
int rf_real_ioctl(int fd, unsigned long request, void *argument);
ssize_t rf_real_sendmsg(int fd, const struct msghdr *message, int flags);
int rf_real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int rf_real_execve(const char *path, char *const arguments[], char *const environment[]);

int rf_real_execvpe(const char *file, char *const arguments[], char *const environment[]);
int rf_real_posix_fallocate(int fd, off_t offset, off_t size);

/* A raw result in libc's manner: -1 and errno. */
long rf_result(long raw);

#endif
