// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * disk_reader: reads disks whose sectors verify themselves, and says which it got wrong.
 *
 *   disk_reader make FILE MIB DISK   writes an image: every sector says disk and number
 *   disk_reader read                 reads all such disks of this machine, a process each
 *
 * A process reads with O_DIRECT into buffers of its own, kDepth requests at a time, from random
 * places to random pages. One request in four is split: four requests at once write to the four
 * quarters of one page. What has arrived is verified at once; pages that were read before and were
 * left alone since are verified at random. A sector that is wrong is one that the disk has not at
 * that place: another's, a former one, zeros.
 *
 * Each process prints one line a second:
 *   SECTORS disk=D device=NAME reads=N checks=N later=N wrong=N zeros=N
 * SIGTERM lets the requests in flight end and has all buffers verified; the last line then begins
 * with SECTORS-DONE. The first wrong sectors are a line each, WRONG. A request that fails is a
 * line, FAILED, and the process ends.
 *
 * Threads: one a process.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
  kSectorBytes = 512,
  kSectorWords = kSectorBytes / 8,
  kPageBytes = 4096,
  kQuarters = 4,  // of a page; a quarter is the smallest request
  kQuarterBytes = kPageBytes / kQuarters,
  kQuarterSectors = kQuarterBytes / kSectorBytes,
  kPages = 1024,  // buffers of a process
  kDepth = 16,
  kRunPagesMax = 8,    // of one request
  kSplitEvery = 4,     // one request in so many is split
  kLaterPages = 12,    // pages from before that are verified after each request
  kWrongLinesMax = 5,  // that are told one by one
};
static const uint32_t kUnknown = UINT32_MAX;
static const uint64_t kMagic = 0x5ec7;

static uint64_t mix(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

// Word 0 says what the sector is, the last is a checksum of all. The rest repeats, so that a page
// of sectors compresses and leaves.
static uint64_t name_of(unsigned disk, uint32_t sector) {
  return kMagic << 48 | (uint64_t)disk << 32 | sector;
}
static uint64_t word_of(uint64_t name, int i) {
  if (i == 0) return name;
  return i == kSectorWords - 1 ? mix(~name) : mix(name) + (i & 7);
}
static int sector_is(const volatile uint64_t* words, uint64_t name) {
  for (int i = 0; i < kSectorWords; i++) {
    if (words[i] != word_of(name, i)) return 0;
  }
  return 1;
}

static int make(const char* path, unsigned mib, unsigned disk) {
  FILE* const file = fopen(path, "we");
  if (file == NULL) return 1;
  uint64_t words[kSectorWords];
  for (uint32_t sector = 0; sector < mib * (1048576u / kSectorBytes); sector++) {
    for (int i = 0; i < kSectorWords; i++) words[i] = word_of(name_of(disk, sector), i);
    if (fwrite(words, sizeof words, 1, file) != 1) return 1;
  }
  return fclose(file) != 0;
}

struct Request {
  struct iocb call;
  uint32_t quarter, quarters;  // of the buffers; none when 0
};
static struct Request requests[kDepth];
static aio_context_t context;
static int device_fd;
static const char* device;
static unsigned disk;
static uint32_t sectors;
static unsigned char* buffers;
static uint32_t expected[kPages * kQuarters];  // a quarter's first sector, or kUnknown
static unsigned char busy[kPages * kQuarters];
static unsigned long reads, checks, later_checks, wrong, zeros, in_flight;
static uint64_t dice;
static volatile sig_atomic_t stopping;

static uint32_t draw(uint32_t below) {
  dice += 0x9e3779b97f4a7c15u;
  return (uint32_t)(mix(dice) >> 32) % below;
}

// One write, so that lines of several processes do not mix.
__attribute__((format(printf, 1, 2))) static void say(const char* format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  const int n = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(STDOUT_FILENO, line, (size_t)n) != n) _exit(1);
}

static void tell(const char* word) {
  say("%s disk=%u device=%s reads=%lu checks=%lu later=%lu wrong=%lu zeros=%lu\n", word, disk,
      device, reads, checks, later_checks, wrong, zeros);
}

static void fail(const char* what) {
  say("FAILED disk=%u device=%s %s: %s\n", disk, device, what, strerror(errno));
  _exit(1);
}

static void verify(uint32_t quarter, const char* when) {
  const uint32_t first = expected[quarter];
  if (busy[quarter] || first == kUnknown) return;
  for (uint32_t i = 0; i < kQuarterSectors; i++) {
    const unsigned char* const at = buffers + (size_t)quarter * kQuarterBytes + i * kSectorBytes;
    const volatile uint64_t* const words = (const volatile uint64_t*)at;
    checks++;
    if (sector_is(words, name_of(disk, first + i))) continue;
    const uint64_t got = words[0], last = words[kSectorWords - 1];
    wrong++;
    zeros += got == 0;
    if (wrong <= kWrongLinesMax) {
      say("WRONG disk=%u device=%s page=%u %s: want %016llx, got %016llx ... %016llx\n", disk,
          device, quarter / kQuarters, when, (unsigned long long)name_of(disk, first + i),
          (unsigned long long)got, (unsigned long long)last);
    }
    expected[quarter] = kUnknown;
    return;
  }
}

static struct Request* free_request(void) {
  for (int i = 0; i < kDepth; i++) {
    if (requests[i].quarters == 0) return &requests[i];
  }
  return NULL;
}

static int any_busy(uint32_t quarter, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (busy[quarter + i]) return 1;
  }
  return 0;
}

// REQUIRES: a free request; the quarters are not busy.
static void submit(uint32_t quarter, uint32_t count) {
  struct Request* const request = free_request();
  const uint32_t places = sectors / kQuarterSectors;
  const uint32_t sector = draw(places - count + 1) * kQuarterSectors;
  request->quarter = quarter;
  request->quarters = count;
  for (uint32_t i = 0; i < count; i++) {
    busy[quarter + i] = 1;
    expected[quarter + i] = sector + i * kQuarterSectors;
  }
  memset(&request->call, 0, sizeof request->call);
  request->call.aio_data = (uintptr_t)request;
  request->call.aio_lio_opcode = IOCB_CMD_PREAD;
  request->call.aio_fildes = (uint32_t)device_fd;
  request->call.aio_buf = (uintptr_t)(buffers + (size_t)quarter * kQuarterBytes);
  request->call.aio_nbytes = (uint64_t)count * kQuarterBytes;
  request->call.aio_offset = (int64_t)sector * kSectorBytes;
  struct iocb* calls[1] = {&request->call};
  if (syscall(SYS_io_submit, context, 1, calls) != 1) fail("io_submit");
  in_flight++;
}

static void submit_more(void) {
  while (in_flight + kQuarters <= kDepth) {
    const int split = draw(kSplitEvery) == 0;
    const uint32_t pages = split ? 1 : 1 + draw(kRunPagesMax);
    const uint32_t quarter = draw(kPages - pages + 1) * kQuarters;
    if (any_busy(quarter, pages * kQuarters)) continue;
    if (split) {
      for (uint32_t i = 0; i < kQuarters; i++) submit(quarter + i, 1);
    } else {
      submit(quarter, pages * kQuarters);
    }
  }
}

// Waits for at least one request; returns 0 when a signal came first.
static int take_finished(void) {
  struct io_event events[kDepth];
  const long n = syscall(SYS_io_getevents, context, 1, kDepth, events, NULL);
  if (n < 0 && errno == EINTR) return 0;
  if (n < 0) fail("io_getevents");
  for (long e = 0; e < n; e++) {
    struct Request* const request = (struct Request*)(uintptr_t)events[e].data;
    if (events[e].res != (int64_t)request->quarters * kQuarterBytes) {
      errno = events[e].res < 0 ? (int)-events[e].res : EIO;
      fail("read");
    }
    for (uint32_t i = 0; i < request->quarters; i++) {
      busy[request->quarter + i] = 0;
      verify(request->quarter + i, "at once");
    }
    request->quarters = 0;
    in_flight--;
    reads++;
  }
  return 1;
}

static void verify_page(uint32_t page) {
  const unsigned long before = checks;
  for (uint32_t i = 0; i < kQuarters; i++) verify(page * kQuarters + i, "later");
  later_checks += checks - before;
}

static void on_term(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

static int read_disk(void) {
  buffers = mmap(NULL, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (buffers == MAP_FAILED) fail("mmap");
  memset(expected, 0xff, sizeof expected);
  dice = mix((uint64_t)time(NULL) + disk);
  if (syscall(SYS_io_setup, kDepth, &context) != 0) fail("io_setup");
  time_t told = time(NULL);
  while (!stopping) {
    submit_more();
    if (!take_finished()) continue;
    for (int i = 0; i < kLaterPages; i++) verify_page(draw(kPages));
    if (time(NULL) == told) continue;
    told = time(NULL);
    tell("SECTORS");
  }
  while (in_flight != 0) take_finished();
  for (uint32_t page = 0; page < kPages; page++) verify_page(page);
  tell("SECTORS-DONE");
  return wrong != 0;
}

// Whether this is one of our disks; opens it.
static int open_disk(const char* name) {
  char path[300];
  snprintf(path, sizeof path, "/dev/%s", name);
  device_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (device_fd < 0) return 0;
  uint64_t* const words = aligned_alloc(kPageBytes, kPageBytes);
  const off_t bytes = lseek(device_fd, 0, SEEK_END);
  const int ours = words != NULL && pread(device_fd, words, kPageBytes, 0) == kPageBytes &&
                   words[0] >> 48 == kMagic && (uint32_t)words[0] == 0;
  if (ours) {
    disk = (unsigned)(words[0] >> 32) & 0xffff;
    device = name;
    sectors = (uint32_t)(bytes / kSectorBytes);
  } else {
    close(device_fd);
  }
  free(words);
  return ours;
}

static int read_all(void) {
  DIR* const all = opendir("/sys/block");
  if (all == NULL) return 1;
  const struct sigaction term = {.sa_handler = on_term};
  sigaction(SIGTERM, &term, NULL);
  int children = 0, bad = 0;
  for (struct dirent* one = readdir(all); one != NULL; one = readdir(all)) {
    if (one->d_name[0] == '.' || !open_disk(one->d_name)) continue;
    const pid_t child = fork();
    if (child == 0) _exit(read_disk());
    if (child < 0) return 1;
    close(device_fd);
    children++;
  }
  say("READING disks=%d\n", children);
  while (children > 0) {
    int status = 0;
    if (wait(&status) < 0) continue;  // a signal; the children were sent it too
    bad |= status;
    children--;
  }
  return bad != 0;
}

int main(int argc, char** argv) {
  if (argc == 5 && strcmp(argv[1], "make") == 0)
    return make(argv[2], (unsigned)atoi(argv[3]), (unsigned)atoi(argv[4]));
  if (argc == 2 && strcmp(argv[1], "read") == 0) return read_all();
  fprintf(stderr, "disk_reader make FILE MIB DISK | disk_reader read\n");
  return 2;
}
