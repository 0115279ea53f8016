// SPDX-License-Identifier: GPL-2.0-or-later
// A guest of the crash storm: a process with RAM as QEMU makes it and the real agent preloaded,
// whose threads write, read, discard and verify self-describing pages without end. It knows nothing
// of the daemon.
//
// Commands on stdin, an answer a line: `status` (operations so far, slowest operation), `check`
// (everybody stops, every page is verified), `rest` (everybody stops until the next `check`),
// `discard` (everybody stops, all RAM is discarded by two calls), `calm` (no more slow reads),
// `quit`. A wrong byte ends the process at once with a line "BAD ...".
// Threads: a page is changed by the thread that owns its block of 16 pages alone; everybody reads
// all pages.
#include <fcntl.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "page_content.hpp"

using namespace storm;

namespace {

constexpr std::uint64_t kBlock = 16;      // pages owned together
constexpr std::uint64_t kSlowPages = 64;  // of each thread that reads slowly
constexpr std::uint64_t kSweep = 64;      // pages of one read in a row
constexpr std::uint64_t kSlowRun = 4;     // pages of one slow read
constexpr int kExitBad = 1;

struct Options {
  std::uint64_t pages = 4096;
  unsigned threads = 6;
  std::uint64_t seed = 1;
  std::uint64_t guest = 0;
  unsigned rate = 4000;  // operations a second, all threads together
  bool raw_discards = true;
  std::string slow_file;     // a file whose reads are slow and write to pinned pages
  bool slow_raw = false;     // open it behind the agent's back
  bool slow_direct = false;  // with O_DIRECT
};

struct Slot {
  std::atomic<std::uint32_t> sequence{0};  // odd: being changed
  std::atomic<std::uint64_t> bits{0};
};

struct Ram {
  int fd = -1;
  std::byte* at = nullptr;
  std::byte* page(std::uint64_t p) const noexcept { return at + p * kPage; }
};

Options options;
Ram ram;
int file_fd = -1;
std::unique_ptr<Slot[]> slots;
std::atomic<bool> pausing{false};
std::atomic<bool> calm{false};  // no more slow reads
std::atomic<unsigned> paused{0};
std::atomic<std::uint64_t> operations{0}, stores{0}, stamps{0}, reads{0}, discards{0}, files{0};
std::atomic<std::uint64_t> slow_reads{0}, refused{0}, slowest_us{0};

std::uint64_t now_us() noexcept {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(t.tv_nsec) / 1000;
}

[[noreturn]] void bad(const std::string& what) {
  const std::string line = "BAD " + what + "\n";
  [[maybe_unused]] const auto n = ::write(1, line.data(), line.size());
  ::_exit(kExitBad);
}

class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(mix(seed)) {}
  std::uint64_t next() noexcept { return state_ = mix(state_); }
  std::uint64_t below(std::uint64_t n) noexcept { return next() % n; }

 private:
  std::uint64_t state_;
};

[[noreturn]] void report(std::uint64_t p, Description d, const Page& want, const Page& got,
                         const char* who) {
  std::size_t first = 0;
  while (first < kWords && want[first] == got[first]) ++first;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < kWords; ++i) wrong += want[i] != got[i];
  bool zero = true;
  for (const std::uint64_t w : got) zero = zero && w == 0;
  char text[256];
  std::snprintf(text, sizeof text,
                "page %lu (%s, version %u, %u stamps) by %s: %zu words differ, first %zu: %016lx, "
                "not %016lx%s",
                p, kKindNames[static_cast<std::size_t>(d.kind)], d.version, unsigned{d.stamps}, who,
                wrong, first, got[first], want[first], zero ? "; the page is zero" : "");
  bad(text);
}

// Reads all of the page; compares when it did not change meanwhile.
void verify(std::uint64_t p, const char* who) {
  Slot& slot = slots[p];
  const std::uint32_t before = slot.sequence.load(std::memory_order_acquire);
  if (before % 2 != 0) return;
  const Description d = Description::of(slot.bits.load(std::memory_order_relaxed));
  Page got;
  std::memcpy(got.data(), ram.page(p), kPage);
  std::atomic_thread_fence(std::memory_order_acquire);
  if (slot.sequence.load(std::memory_order_relaxed) != before) return;
  Page want;
  fill(d, p, options.guest, want);
  if (want != got) report(p, d, want, got, who);
}

// A change by the page's owner.
class Change {
 public:
  Change(std::uint64_t p, Description next) noexcept : slot_(slots[p]), next_(next) {
    slot_.sequence.fetch_add(1, std::memory_order_acq_rel);
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  ~Change() {
    slot_.bits.store(next_.bits(), std::memory_order_relaxed);
    slot_.sequence.fetch_add(1, std::memory_order_release);
  }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

 private:
  Slot& slot_;
  Description next_;
};

Description described(std::uint64_t p) noexcept {
  return Description::of(slots[p].bits.load(std::memory_order_relaxed));
}

void store_page(std::uint64_t p, Kind kind) {
  const Description next{kind, 0, described(p).version + 1};
  Page bytes;
  fill(next, p, options.guest, bytes);
  const Change change(p, next);
  std::memcpy(ram.page(p), bytes.data(), kPage);
  ++stores;
}

void stamp_page(std::uint64_t p) {
  Description next = described(p);
  if (next.stamps == kStampsMax) return store_page(p, Kind::compressible);
  ++next.stamps;
  const Change change(p, next);
  auto* word = reinterpret_cast<volatile std::uint64_t*>(ram.page(p)) + stamp_at(p, next.stamps);
  *word = stamp_value(p, next.version, next.stamps);
  ++stamps;
}

void read_file(int fd, std::uint64_t p, std::uint32_t block, std::uint64_t pages) {
  std::size_t done = 0;
  const std::size_t size = pages * kPage;
  while (done < size) {
    const ssize_t n =
        ::pread(fd, ram.page(p) + done, size - done, static_cast<off_t>(block * kPage + done));
    if (n <= 0) bad("read into RAM: " + std::string(std::strerror(errno)));
    done += static_cast<std::size_t>(n);
  }
}

void file_page(std::uint64_t p) {
  const Description next{Kind::file, 0, described(p).version + 1};
  const Change change(p, next);
  read_file(file_fd, p, next.version % kFileBlocks, 1);
  ++files;
}

long raw_call(long number, long a, long b, long c, long d) noexcept {
  long result = number;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}

void discard_run(std::uint64_t p, std::uint64_t count, Random& random) {
  std::vector<std::unique_ptr<Change>> changes;
  for (std::uint64_t q = p; q < p + count; ++q) {
    changes.push_back(
        std::make_unique<Change>(q, Description{Kind::zero, 0, described(q).version + 1}));
  }
  const auto offset = static_cast<off_t>(p * kPage);
  const auto size = static_cast<off_t>(count * kPage);
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const std::uint64_t how = random.below(options.raw_discards ? 6 : 4);
  const bool zero_first = how != 1;
  if (zero_first) std::memset(ram.page(p), 0, count * kPage);
  long result = 0;
  switch (how) {
    case 0:
    case 1:
    case 2: result = ::fallocate(ram.fd, kPunch, offset, size); break;
    case 3: result = ::madvise(ram.page(p), count * kPage, MADV_REMOVE); break;
    // Unseen by the agent: no discard bit is set. The pages were zeroed first, and the truth (T1,
    // T4) alone must remember that.
    default: result = raw_call(SYS_fallocate, ram.fd, kPunch, offset, size); break;
  }
  if (result != 0) bad("a discard failed: " + std::string(std::strerror(errno)));
  ++discards;
}

void forget(std::uint64_t p) { (void)::madvise(ram.page(p), kPage, MADV_DONTNEED); }

std::uint64_t common_pages() noexcept {
  return options.pages - (options.slow_file.empty() ? 0 : kSlowPages);
}

std::uint64_t own_page(unsigned thread, Random& random) {
  const std::uint64_t blocks = common_pages() / kBlock;
  const std::uint64_t mine = (blocks - thread + options.threads - 1) / options.threads;
  return (random.below(mine) * options.threads + thread) * kBlock + random.below(kBlock);
}

void operate(unsigned thread, Random& random, const char* who) {
  const std::uint64_t p = own_page(thread, random);
  const std::uint64_t dice = random.below(100);
  if (dice < 2) {
    // In a row, so that neighbours come back with the page that is read.
    const std::uint64_t first = random.below(options.pages - kSweep);
    for (std::uint64_t q = first; q < first + kSweep; ++q) verify(q, who);
    reads += kSweep;
  } else if (dice < 30) {
    verify(random.below(options.pages), who);
    ++reads;
  } else if (dice < 50) {
    verify(p, who);
    ++reads;
  } else if (dice < 66) {
    verify(p, who);
    store_page(p, static_cast<Kind>(random.below(4)));
  } else if (dice < 84) {
    stamp_page(p);
  } else if (dice < 92) {
    file_page(p);
  } else if (dice < 98) {
    discard_run(p, 1 + random.below(kBlock - p % kBlock), random);
  } else {
    forget(p);
  }
}

void rest_while_paused() {
  if (!pausing.load()) return;
  ++paused;
  while (pausing.load()) ::usleep(500);
  --paused;
}

void note_time(std::uint64_t began) noexcept {
  const std::uint64_t took = now_us() - began;
  std::uint64_t seen = slowest_us.load();
  while (took > seen && !slowest_us.compare_exchange_weak(seen, took)) {
  }
}

void work(unsigned thread) {
  Random random(options.seed * 1000 + thread);
  const std::string who = "thread " + std::to_string(thread);
  const std::uint64_t burst_us = 8ull * 1'000'000 * options.threads / options.rate;
  for (;;) {
    rest_while_paused();
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t began = now_us();
      operate(thread, random, who.c_str());
      note_time(began);
      ++operations;
    }
    ::usleep(static_cast<useconds_t>(random.below(2 * burst_us)));
  }
}

int open_slow() {
  const int flags = O_RDONLY | O_CLOEXEC | (options.slow_direct ? O_DIRECT : 0);
  if (!options.slow_raw) return ::open(options.slow_file.c_str(), flags);
  const long fd =
      raw_call(SYS_openat, AT_FDCWD, reinterpret_cast<long>(options.slow_file.c_str()), flags, 0);
  if (fd >= 0) return static_cast<int>(fd);
  errno = static_cast<int>(-fd);
  return -1;
}

// Pages lie still until they are about to be folded, then a file whose reads pin them is opened and
// read.
void work_slowly() {
  Random random(options.seed * 7000);
  const std::uint64_t first = common_pages();
  const std::string who = "slow reader";
  for (;;) {
    rest_while_paused();
    if (calm.load()) {
      ::usleep(10'000);
      continue;
    }
    const std::uint64_t p = first + random.below(kSlowPages / kSlowRun) * kSlowRun;
    for (std::uint64_t q = p; q < p + kSlowRun; ++q) store_page(q, Kind::compressible);
    ::usleep(static_cast<useconds_t>(random.below(250'000)));
    rest_while_paused();
    const int fd = open_slow();
    if (fd < 0) {
      if (errno != EBUSY) bad("open " + options.slow_file + ": " + std::strerror(errno));
      ++refused;
      continue;
    }
    {
      const auto block = static_cast<std::uint32_t>(random.below(kFileBlocks - kSlowRun));
      std::vector<std::unique_ptr<Change>> changes;
      for (std::uint64_t i = 0; i < kSlowRun; ++i) {
        const std::uint32_t version = described(p + i).version;
        const std::uint32_t next =
            version - version % kFileBlocks + kFileBlocks + block + static_cast<std::uint32_t>(i);
        changes.push_back(std::make_unique<Change>(p + i, Description{Kind::file, 0, next}));
      }
      read_file(fd, p, block, kSlowRun);
    }
    for (std::uint64_t q = p; q < p + kSlowRun; ++q) verify(q, who.c_str());
    ::close(fd);
    ++slow_reads;
    ::usleep(static_cast<useconds_t>(random.below(300'000)));
    for (std::uint64_t q = p; q < p + kSlowRun; ++q) verify(q, who.c_str());
  }
}

void make_ram() {
  ram.fd = ::memfd_create("memory-backend-memfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  const std::size_t size = options.pages * kPage;
  if (ram.fd < 0 || ::ftruncate(ram.fd, static_cast<off_t>(size)) != 0 ||
      ::fcntl(ram.fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    bad("make RAM");
  }
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, ram.fd, 0);
  if (at == MAP_FAILED) bad("map RAM");
  ram.at = static_cast<std::byte*>(at);
}

void make_file() {
  file_fd = ::memfd_create("storm-file", MFD_CLOEXEC);
  Page block;
  for (std::uint32_t b = 0; b < kFileBlocks; ++b) {
    fill_file_block(b, block);
    if (::pwrite(file_fd, block.data(), kPage, static_cast<off_t>(b) * static_cast<off_t>(kPage)) !=
        static_cast<ssize_t>(kPage)) {
      bad("make the file");
    }
  }
}

void rest(unsigned workers) {
  pausing.store(true);
  while (paused.load() != workers) ::usleep(500);
}

void check(unsigned workers) {
  rest(workers);
  for (std::uint64_t p = 0; p < options.pages; ++p) verify(p, "check");
  pausing.store(false);
  std::printf("checked %lu\n", options.pages);
}

void discard_all(unsigned workers) {
  rest(workers);
  {
    std::vector<std::unique_ptr<Change>> changes;
    for (std::uint64_t p = 0; p < options.pages; ++p) {
      changes.push_back(
          std::make_unique<Change>(p, Description{Kind::zero, 0, described(p).version + 1}));
    }
    const std::size_t half = options.pages / 2 * kPage;
    if (::fallocate(ram.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(half)) != 0 ||
        ::madvise(ram.at + half, options.pages * kPage - half, MADV_REMOVE) != 0) {
      bad("a discard failed: " + std::string(std::strerror(errno)));
    }
  }
  pausing.store(false);
  std::printf("discarded %lu\n", options.pages);
}

void answer(const std::string& command, unsigned workers) {
  if (command == "quit") ::_exit(0);
  if (command == "calm") {
    calm.store(true);
    std::printf("calm\n");
  } else if (command == "rest") {
    rest(workers);
    std::printf("resting\n");
  } else if (command == "check") {
    check(workers);
  } else if (command == "discard") {
    discard_all(workers);
  } else if (command == "status") {
    std::printf(
        "operations %lu stores %lu stamps %lu reads %lu files %lu discards %lu slow %lu refused "
        "%lu slowest_us %lu\n",
        operations.load(), stores.load(), stamps.load(), reads.load(), files.load(),
        discards.load(), slow_reads.load(), refused.load(), slowest_us.exchange(0));
  } else {
    std::printf("unknown command\n");
  }
  std::fflush(stdout);
}

void parse(int argc, char** argv) {
  static const option kLong[] = {{"pages", required_argument, nullptr, 'p'},
                                 {"threads", required_argument, nullptr, 't'},
                                 {"seed", required_argument, nullptr, 's'},
                                 {"guest", required_argument, nullptr, 'g'},
                                 {"rate", required_argument, nullptr, 'r'},
                                 {"no-raw-discards", no_argument, nullptr, 'n'},
                                 {"slow-file", required_argument, nullptr, 'f'},
                                 {"slow-raw", no_argument, nullptr, 'x'},
                                 {"slow-direct", no_argument, nullptr, 'd'},
                                 {nullptr, 0, nullptr, 0}};
  for (int c = 0; (c = ::getopt_long(argc, argv, "", kLong, nullptr)) != -1;) {
    switch (c) {
      case 'p': options.pages = std::strtoull(optarg, nullptr, 10) / kBlock * kBlock; break;
      case 't': options.threads = static_cast<unsigned>(std::strtoul(optarg, nullptr, 10)); break;
      case 's': options.seed = std::strtoull(optarg, nullptr, 10); break;
      case 'g': options.guest = std::strtoull(optarg, nullptr, 10); break;
      case 'r': options.rate = static_cast<unsigned>(std::strtoul(optarg, nullptr, 10)); break;
      case 'n': options.raw_discards = false; break;
      case 'f': options.slow_file = optarg; break;
      case 'x': options.slow_raw = true; break;
      case 'd': options.slow_direct = true; break;
      default: ::_exit(2);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  make_file();
  slots = std::make_unique<Slot[]>(options.pages);
  make_ram();
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < options.threads; ++i) threads.emplace_back(work, i);
  unsigned workers = options.threads;
  if (!options.slow_file.empty()) {
    threads.emplace_back(work_slowly);
    ++workers;
  }
  char line[64];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    std::string command(line);
    while (!command.empty() && command.back() == '\n') command.pop_back();
    answer(command, workers);
  }
  ::_exit(0);
}
