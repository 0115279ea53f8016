// SPDX-License-Identifier: GPL-2.0-or-later
// The CPU time per folded page, by kind of page, against the floor (guard, pread, hash, compare,
// punch and nothing else) and against KSM on the same pages in the same run. The pages of the
// second guest are laid out in runs as recorded from two real guests (bench/layouts:
// record_layout.py on guests of 512 MiB that had answered requests), in shuffled order. KSM's time
// per merged page depends on how many other pages it compares in vain, so a second pair, of guests
// of one image, is shown too.
// usage: bench_fold_cpu LAYOUT SAME_IMAGE_LAYOUT
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <algorithm>
#include <cstring>
#include <fstream>
#include <random>
#include <string>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/clock.hpp"
#include "bench/report.hpp"
#include "bench/rig.hpp"
#include "sys/page_batches.hpp"

using namespace ramfold;
using bench::Rig;

namespace {

constexpr std::uint64_t kPages = 24'576;  // 96 MiB a guest
constexpr int kRepeats = 5;
constexpr std::uint64_t kWindow = 16;

enum class Kind : char { zero, duplicate, unique };
using Layout = std::vector<Kind>;

Layout load_layout(const char* path, std::uint32_t seed) {
  std::vector<std::pair<Kind, std::uint64_t>> runs;
  std::ifstream file(path);
  std::string kind;
  std::uint64_t length = 0, count = 0;
  while (file >> kind >> length >> count) {
    const Kind k = kind == "zero"        ? Kind::zero
                   : kind == "duplicate" ? Kind::duplicate
                                         : Kind::unique;
    for (std::uint64_t i = 0; i < count; ++i) runs.emplace_back(k, length);
  }
  std::mt19937 random(seed);
  std::shuffle(runs.begin(), runs.end(), random);
  Layout layout;
  for (std::size_t i = 0; layout.size() < kPages && !runs.empty(); i = (i + 1) % runs.size()) {
    layout.insert(layout.end(), std::min<std::uint64_t>(runs[i].second, kPages - layout.size()),
                  runs[i].first);
  }
  return layout;
}

// Seeds: zero 0; duplicates the same in both guests; unique different.
std::uint64_t seed_of(Kind kind, std::uint64_t p, std::uint64_t guest) {
  switch (kind) {
    case Kind::zero: return 0;
    case Kind::duplicate: return p + 1;
    case Kind::unique: return (guest << 32) + p + 1;
  }
  return 0;
}

double us(std::uint64_t ns, std::uint64_t pages) {
  return pages == 0 ? 0 : static_cast<double>(ns) / 1e3 / static_cast<double>(pages);
}

// What one kind of steps has cost so far.
struct Spent {
  std::uint64_t ns = 0;
  std::uint64_t pages = 0;
  double us_a_page() const { return us(ns, pages); }
};

// The bare steps over a guest's runs of duplicates: every page is compared with a copy that is at
// hand.
class Floor {
 public:
  explicit Floor(const Layout& layout) : layout_(layout) {
    for (std::uint64_t p = 0; p < kPages; ++p)
      process_->store(PageIndex{p}, seed_of(layout[p], p, 1));
    for (std::uint64_t p = 0; p < kPages; p += guest::kChunkPages.value)
      (void)vm_->ensure_registered(PageIndex{p});
  }
  void fold(std::uint64_t chunk) {
    const std::uint64_t first = chunk * guest::kChunkPages.value;
    const std::uint64_t stop = std::min(first + guest::kChunkPages.value, kPages);
    for (std::uint64_t p = first; p < stop;) {
      std::uint64_t end = p;
      while (end < stop && layout_[end] == Kind::duplicate && end / kWindow == p / kWindow) ++end;
      if (end == p) {
        ++p;
        continue;
      }
      fold_run({PageIndex{p}, PageCount{end - p}});
      p = end;
    }
  }
  Spent spent() const { return spent_; }

 private:
  void fold_run(PageRun run) {
    const std::uint64_t first = run.first.value;
    for (std::uint64_t i = 0; i < run.count.value; ++i)
      test::fill_page(first + i + 1, (*copy_)[i].bytes.data());
    std::uint64_t sum = 0;  // keeps the compiler from leaving the work out
    const std::uint64_t began = thread_cpu_ns();
    (void)vm_->uffd().guard(vm_->range_of(run));
    (void)vm_->read_pages(run, (*buffer_)[0].bytes.data());
    for (std::uint64_t i = 0; i < run.count.value; ++i) {
      const PageCopy& page = (*buffer_)[i];
      sum += XXH3_64bits_withSeed(&page, kPageSize, 7);
      sum += static_cast<std::uint64_t>(std::memcmp(&page, &(*copy_)[i], kPageSize) == 0);
    }
    (void)vm_->punch_pages(run);
    spent_.ns += thread_cpu_ns() - began;
    spent_.pages += run.count.value;
    if (sum == 0) std::fprintf(stderr, "the floor did nothing\n");
  }

  const Layout& layout_;
  std::unique_ptr<test::GuestProcess> process_ = test::GuestProcess::start(PageCount{kPages});
  std::unique_ptr<guest::Vm> vm_ = process_->make_vm(9);
  std::unique_ptr<std::array<PageCopy, kWindow>> buffer_ =
      std::make_unique<std::array<PageCopy, kWindow>>();
  std::unique_ptr<std::array<PageCopy, kWindow>> copy_ =
      std::make_unique<std::array<PageCopy, kWindow>>();
  Spent spent_;
};

struct Ours {
  double fold = 0;     // the pass that folds
  double observe = 0;  // the pass before it
};

// The second guest's pages of one kind (the others are left untouched), after the first guest was
// folded. `floor` works in turn with the folding, 4 MiB each, so that whatever else the machine
// does slows down both.
Ours fold_cost(const Layout& layout, Kind kind, Floor* floor) {
  const auto contents = Rig::make_store();
  Rig first(contents, 1, kPages, false);
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (layout[p] == Kind::duplicate) first.process().store(PageIndex{p}, seed_of(layout[p], p, 1));
  }
  first.pass();
  first.pass();
  Rig second(contents, 2, kPages, false);
  std::uint64_t pages = 0;
  for (std::uint64_t p = 0; p < kPages; ++p) {
    if (layout[p] != kind) continue;
    second.process().store(PageIndex{p}, seed_of(kind, p, 2));
    ++pages;
  }
  sys::drain_page_batches();
  const std::uint64_t began = thread_cpu_ns();
  second.pass();
  const std::uint64_t observe = thread_cpu_ns() - began;
  std::uint64_t fold = 0;
  for (std::uint64_t chunk = 0; chunk < second.chunks(); ++chunk) {
    if (floor != nullptr) floor->fold(chunk);
    const std::uint64_t then = thread_cpu_ns();
    second.pass_over(chunk);
    fold += thread_cpu_ns() - then;
  }
  if (second.folded() + second.held() != pages)
    std::fprintf(stderr, "only %lu of %lu pages are folded\n", second.folded(), pages);
  return {us(fold, second.folded()), us(observe, pages)};
}

// --- KSM -----------------------------------------------------------------------------------------

class Sysfs {
 public:
  explicit Sysfs(std::string name)
      : path_("/sys/kernel/mm/ksm/" + std::move(name)), before_(read()) {}
  ~Sysfs() { write(before_); }
  std::string read() const {
    std::ifstream f(path_);
    std::string s;
    f >> s;
    return s;
  }
  void write(const std::string& s) const { std::ofstream(path_) << s; }

 private:
  std::string path_;
  std::string before_;
};

std::uint64_t ksmd_ns() {
  static const pid_t pid = [] {
    for (pid_t p = 1; p < 100'000; ++p) {
      std::ifstream f("/proc/" + std::to_string(p) + "/comm");
      std::string name;
      if (f >> name && name == "ksmd") return p;
    }
    return pid_t{-1};
  }();
  std::ifstream f("/proc/" + std::to_string(pid) + "/schedstat");
  std::uint64_t ns = 0;
  f >> ns;
  return ns;
}

// ksmd's CPU a merged page over two guests' worth of the layout; 0 when KSM cannot be run here.
double ksm_cost(const Layout& layout) {
  const Sysfs run("run"), sleep("sleep_millisecs");
  if (run.read().empty() || ksmd_ns() == 0) return 0;
  std::array<int, 2> ready{};
  if (::pipe(ready.data()) != 0) return 0;
  const pid_t child = ::fork();
  if (child == 0) {
    const std::size_t size = 2 * kPages * kPageSize;
    auto* at = static_cast<std::byte*>(
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    (void)::madvise(at, size, MADV_NOHUGEPAGE);
    for (std::uint64_t g = 0; g < 2; ++g) {
      for (std::uint64_t p = 0; p < kPages; ++p) {
        if (layout[p] == Kind::zero)
          continue;  // an exact duplicate of every other; counted apart by nobody
        test::fill_page(seed_of(layout[p], p, g + 1), at + ((g * kPages + p) << kPageShift));
      }
    }
    (void)::madvise(at, size, MADV_MERGEABLE);
    [[maybe_unused]] const auto n = ::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char c = 0;
  [[maybe_unused]] const auto got = ::read(ready[0], &c, 1);
  const auto sharing = [] {
    std::ifstream f("/sys/kernel/mm/ksm/pages_sharing");
    std::uint64_t n = 0;
    f >> n;
    return n;
  };
  const std::uint64_t cpu = ksmd_ns();
  sleep.write("0");
  run.write("1");
  std::uint64_t merged = 0, cpu_then = cpu;
  for (int still = 0; still < 30;) {
    ::usleep(100'000);
    const std::uint64_t now = sharing();
    if (now != merged) {
      merged = now;
      cpu_then = ksmd_ns();
      still = 0;
    } else {
      ++still;
    }
  }
  run.write("2");
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  return us(cpu_then - cpu, merged);
}

struct Figures {
  std::vector<double> floor, zero, duplicate, unique, observe, whole, ksm;
};

Figures measure(const char* path, bool all_kinds) {
  Figures f;
  for (std::uint32_t r = 0; r < kRepeats; ++r) {
    const Layout layout = load_layout(path, r + 1);
    if (layout.empty()) {
      std::fprintf(stderr, "%s holds no layout\n", path);
      std::exit(2);
    }
    Floor floor(layout);
    const Ours d = fold_cost(layout, Kind::duplicate, &floor);
    f.floor.push_back(floor.spent().us_a_page());
    f.duplicate.push_back(d.fold);
    f.observe.push_back(d.observe);
    f.whole.push_back(d.fold + d.observe);
    if (all_kinds) {
      f.zero.push_back(fold_cost(layout, Kind::zero, nullptr).fold);
      f.unique.push_back(fold_cost(layout, Kind::unique, nullptr).fold);
    }
    if (const double k = ksm_cost(layout); k > 0) f.ksm.push_back(k);
  }
  return f;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s LAYOUT SAME_IMAGE_LAYOUT\n", argv[0]);
    return 2;
  }
  const Figures f = measure(argv[1], true);
  const Figures same = measure(argv[2], false);
  bench::Report report("fold-cpu");
  report.add({"exact duplicate, folded",
              "us a page",
              f.floor,
              f.duplicate,
              {},
              "<= 1.5x floor",
              bench::median_ratio(f.duplicate, f.floor) <= 1.5});
  report.add(
      {"exact duplicate, observed and folded",
       "us a page",
       {},
       f.whole,
       f.ksm,
       "<= 1/8 of KSM",
       f.ksm.empty() ? std::optional<bool>{} : bench::median_ratio(f.whole, f.ksm) <= 1.0 / 8});
  report.add({"observed only", "us a page", {}, f.observe, {}, "", {}});
  report.add({"zero, folded", "us a page", {}, f.zero, {}, "", {}});
  report.add({"unique, folded (LZ4)", "us a page", {}, f.unique, {}, "", {}});
  report.add({"exact duplicate, folded; one image", "us a page", same.floor, same.duplicate,
              same.ksm, "<= 1.5x floor", bench::median_ratio(same.duplicate, same.floor) <= 1.5});
  return report.print();
}
