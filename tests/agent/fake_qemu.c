// SPDX-License-Identifier: GPL-2.0-or-later
// A stand-in for QEMU as far as the agent can tell: maps RAM as memory-backend-memfd does and makes
// the calls that matter, one for each line on stdin, answering "result errno" on stdout. It knows
// nothing of the agent, so what it prints without it is what it must print with it.
#include <errno.h>
#include <fcntl.h>
#include <linux/udmabuf.h>
#include <linux/userfaultfd.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define RAM_MAX 32

static struct {
  int fd;
  char* at;
  size_t bytes;
} ram[RAM_MAX];

static void answer(long result) {
  const int error = result < 0 ? errno : 0;
  printf("%ld %d\n", result, error);
  fflush(stdout);
}

// memory-backend-memfd without share=on.
static long make_private_ram(void) {
  const int fd = memfd_create("memory-backend-memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, 1 << 20) != 0) return -1;
  return (long)mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
}

// As QEMU does: a memfd with that name, address space reserved first, the file mapped over it.
static long make_ram(int id, size_t bytes) {
  const int fd = memfd_create("memory-backend-memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) return -1;
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) return -1;
  char* reserved =
      mmap(NULL, bytes + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  char* at = mmap(reserved, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (at == MAP_FAILED) return -1;
  ram[id].fd = fd;
  ram[id].at = at;
  ram[id].bytes = bytes;
  return (long)at;
}

static ssize_t pass(int socket, int fd) {
  char byte = 0;
  struct iovec part = {&byte, 1};
  _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct cmsghdr* c = CMSG_FIRSTHDR(&message);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(c), &fd, sizeof fd);
  return sendmsg(socket, &message, 0);
}

static long pass_ram(int id) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return -1;
  const long result = pass(pair[0], ram[id].fd);
  const int error = errno;
  close(pair[0]);
  close(pair[1]);
  errno = error;
  return result;
}

static long run_child(void) {
  const pid_t child = fork();
  if (child == 0) {
    for (int fd = 3; fd < 4096; ++fd) close(fd);
    execlp("true", "true", (char*)NULL);
    _exit(1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

static long count_open(void) {
  long count = 0;
  for (int fd = 0; fd < 4096; ++fd) count += syscall(SYS_fcntl, fd, F_GETFD) >= 0;
  return count;
}

static long close_all(const char* how) {
  if (strcmp(how, "range") == 0) return close_range(3, ~0u, 0);
  if (strcmp(how, "syscall") == 0) return syscall(SYS_close_range, 3, ~0u, 0);
  for (int fd = 3; fd < 4096; ++fd) {
    if (strcmp(how, "dup2") == 0) {
      if (dup2(0, fd) == fd) close(fd);
    } else {
      close(fd);
    }
  }
  return 0;
}

// What os_daemonize does: the parent goes, the child carries on.
static long daemonize(void) {
  const pid_t child = fork();
  if (child > 0) _exit(0);
  if (child == 0) setsid();
  return child;
}

// What QEMU asks of devices that use its RAM. An empty descriptor stands for each device, but where
// its kind matters.
static long own_vhost(const char* path) {
  const int fd = open(path, O_RDWR);
  if (fd < 0) return -1;
  const long result = ioctl(fd, VHOST_SET_OWNER);
  const int error = errno;
  close(fd);
  errno = error;
  return result;
}

static long map_dma(const void* at) {
  struct vfio_iommu_type1_dma_map map = {
      .argsz = sizeof map, .vaddr = (__u64)at, .size = 4096, .flags = VFIO_DMA_MAP_FLAG_READ};
  return ioctl(0, VFIO_IOMMU_MAP_DMA, &map);
}

// Many threads make calls that a folded page would not survive, and discard beside them.
static struct {
  _Atomic long live;  // such calls under way: the library that is preloaded counts them
  _Atomic long stop;
  _Atomic long rounds, refused;
}* storm_words;

static void storm_round(int mode, off_t offset, off_t size) {
  if (fallocate(ram[0].fd, mode, offset, size) == 0)
    ++storm_words->rounds;
  else
    ++storm_words->refused;
  usleep(300);
}

static void* storm_punches(void* unused) {
  while (!storm_words->stop) storm_round(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 200);
  return unused;
}

static void* storm_allocates(void* unused) {
  while (!storm_words->stop) storm_round(0, 8192, 4096);
  return unused;
}

static void* storm_discards(void* unused) {
  for (long i = 0; !storm_words->stop; ++i)
    fallocate(ram[0].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i % 64 * 4096, 4096);
  return unused;
}

static long storm(int shared_fd) {
  void* (*const bodies[])(void*) = {storm_punches, storm_punches, storm_allocates, storm_discards};
  pthread_t threads[4];
  storm_words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
  if (storm_words == MAP_FAILED) return -1;
  for (int i = 0; i < 4; ++i) pthread_create(&threads[i], NULL, bodies[i], NULL);
  for (int i = 0; i < 4; ++i) pthread_join(threads[i], NULL);
  return 0;
}

// What QEMU does for a background snapshot, but for the snapshot: a userfaultfd of its own, all RAM
// registered with it, and for `ms` nothing else. 0, or the first call that failed, with its errno.
static long snapshot(int id, long ms) {
  const int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (uffd < 0) return -1;
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
  struct uffdio_register whole = {.range = {(__u64)ram[id].at, ram[id].bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  long result = ioctl(uffd, UFFDIO_API, &api) == 0 ? 0 : -2;
  if (result == 0 && ioctl(uffd, UFFDIO_REGISTER, &whole) != 0) result = -3;
  const int error = errno;
  if (result == 0) {
    usleep((useconds_t)ms * 1000);
    ioctl(uffd, UFFDIO_UNREGISTER, &whole.range);
  }
  close(uffd);
  errno = error;
  return result;
}

// A page's bytes all go by its number; `fill` writes `count` pages, `verify` counts those that are
// not so any more.
static unsigned char byte_of(long page, size_t at) {
  return (unsigned char)((unsigned long)page * 31 + at * 7 + (at >> 8) + 1);
}

static long fill(int id, long count) {
  for (long page = 0; page < count; ++page)
    for (size_t at = 0; at < 4096; ++at)
      ram[id].at[page * 4096 + (long)at] = (char)byte_of(page, at);
  return 0;
}

static long verify(int id, long count) {
  long wrong = 0;
  for (long page = 0; page < count; ++page) {
    int differs = 0;
    for (size_t at = 0; at < 4096; ++at)
      differs |= (unsigned char)ram[id].at[page * 4096 + (long)at] != byte_of(page, at);
    wrong += differs;
  }
  return wrong;
}

static int lock_page(const void* at) {
#ifdef RUNTIME_KEEPS_MLOCK
  return mlock2(at, 4096, 0);
#else
  return mlock(at, 4096);
#endif
}

int main(void) {
  char line[512];
  answer(getpid());
  while (fgets(line, sizeof line, stdin) != NULL) {
    char verb[32] = "", text[256] = "";
    long a = 0, b = 0, c = 0, d = 0;
    if (sscanf(line, "%31s /%255s %ld", verb, text + 1, &a) >= 2) {
      text[0] = '/';
    } else if (sscanf(line, "%31s :%255s", verb, text) < 2) {
      sscanf(line, "%31s %ld %ld %ld %ld", verb, &a, &b, &c, &d);
    }
    long result = -1;
    errno = 0;
    if (strcmp(verb, "ram") == 0)
      result = make_ram((int)a, (size_t)b);
    else if (strcmp(verb, "private") == 0)
      result = make_private_ram();
    else if (strcmp(verb, "again") == 0)
      result = (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, ram[a].fd, 0);
    else if (strcmp(verb, "over") == 0)
      result = (long)mmap(ram[a].at, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    else if (strcmp(verb, "peek") == 0)
      result = *(volatile unsigned char*)(ram[a].at + b);
    else if (strcmp(verb, "poke") == 0)
      result = *(volatile char*)(ram[a].at + b) = (char)c;
    else if (strcmp(verb, "allocate") == 0)
      result = fallocate(ram[a].fd, (int)b, c, d);
    else if (strcmp(verb, "posix_allocate") == 0)
      result = posix_fallocate(ram[a].fd, b, c);
    else if (strcmp(verb, "truncate") == 0)
      result = ftruncate(ram[a].fd, b);
    else if (strcmp(verb, "advise") == 0)
      result = madvise(ram[a].at + c, (size_t)d, (int)b);
    else if (strcmp(verb, "uid") == 0)
      result = setresuid((uid_t)a, (uid_t)a, (uid_t)a);
    else if (strcmp(verb, "munmap") == 0)
      result = munmap(ram[a].at, ram[a].bytes);
    else if (strcmp(verb, "mremap") == 0)
      result = (long)mremap(ram[a].at, ram[a].bytes, ram[a].bytes, MREMAP_MAYMOVE);
    else if (strcmp(verb, "mlock") == 0)
      result = lock_page(ram[a].at);
    else if (strcmp(verb, "mlockall") == 0)
      result = mlockall(MCL_CURRENT);
    else if (strcmp(verb, "open") == 0)
      result = open(text, (int)a);
    else if (strcmp(verb, "udmabuf") == 0)
      result = ioctl(0, UDMABUF_CREATE, NULL);
    else if (strcmp(verb, "udmabuf_list") == 0)
      result = syscall(SYS_ioctl, 0, UDMABUF_CREATE_LIST, NULL);
    else if (strcmp(verb, "map_file") == 0)
      result = ioctl(0, _IO(';', 0x8f), NULL);  // IOMMU_IOAS_MAP_FILE
    else if (strcmp(verb, "map_dma") == 0)
      result = map_dma(ram[a].at);
    else if (strcmp(verb, "map_registers") == 0)
      result = map_dma(line);
    else if (strcmp(verb, "own_vhost") == 0)
      result = own_vhost(text);
    else if (strcmp(verb, "vfio_device") == 0)
      result = ioctl(0, VFIO_GROUP_GET_DEVICE_FD, text);
    else if (strcmp(verb, "close") == 0)
      result = close((int)a);
    else if (strcmp(verb, "close_all") == 0)
      result = close_all(text);
    else if (strcmp(verb, "count") == 0)
      result = count_open();
    else if (strcmp(verb, "pass_ram") == 0)
      result = pass_ram((int)a);
    else if (strcmp(verb, "userfaultfd") == 0)
      result = syscall(SYS_userfaultfd, O_CLOEXEC);
    else if (strcmp(verb, "snapshot") == 0)
      result = snapshot((int)a, b);
    else if (strcmp(verb, "fill") == 0)
      result = fill((int)a, b);
    else if (strcmp(verb, "verify") == 0)
      result = verify((int)a, b);
    else if (strcmp(verb, "child") == 0)
      result = run_child();
    else if (strcmp(verb, "exec") == 0)
      result = execl(text, text, "7", "0", (char*)NULL);
    else if (strcmp(verb, "daemonize") == 0) {
      result = daemonize();
      if (result == 0) result = getpid();
    } else if (strcmp(verb, "storm") == 0)
      result = storm((int)a);
    else if (strcmp(verb, "quit") == 0)
      return 0;
    else
      errno = ENOSYS;
    answer(result);
  }
  return 0;
}
