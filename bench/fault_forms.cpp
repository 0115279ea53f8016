// SPDX-License-Identifier: GPL-2.0-or-later
// Measures how long a guest thread waits for a page in each form of the store, against a bare
// userfaultfd echo (fault_echo.hpp). Also compares the decode time that the chooser of forms
// assumes with the measured one. The pages are those of real guests (bench/corpus), each content in
// the form that the reformer gave it. There are three stores: without reforming, with patches only,
// and with all forms. Pages of a form that has fewer than kPagesMin are left out.
// usage: bench_fault_forms NAME SET_DIRECTORY [NAME SET_DIRECTORY]...
#include <unistd.h>
#include <random>
#include <stdexcept>

#include "base/clock.hpp"
#include "bench/awake.hpp"
#include "bench/fault_echo.hpp"
#include "bench/guest_pages.hpp"
#include "bench/on_sets.hpp"
#include "bench/rig.hpp"
#include "bench/store_headers.hpp"
#include "store/contents.hpp"
#include "store/reform/reformer.hpp"

using namespace ramfold;
using namespace ramfold::bench;
using namespace ramfold::store;

namespace {

constexpr std::size_t kStored = 16'000;   // pages of each set
constexpr std::size_t kPagesMax = 1'000;  // of a form, in one repeat
constexpr std::size_t kPagesMin = 150;
constexpr std::size_t kRepeats = 5;
constexpr std::uint64_t kForever = ~std::uint64_t{0} / 4;
constexpr std::uint64_t kColdS = 300;

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

struct Stored {
  ContentId id;
  const PageCopy* page;
};

struct Kept {
  std::shared_ptr<Contents> store = Rig::make_store();
  std::unique_ptr<Reformer> reformer;
  std::vector<Stored> contents;
};

Kept keep(const std::vector<const PageCopy*>& pages, const ReformPolicy* policy) {
  Kept kept;
  const GroupUse group = must(kept.store->group("bench"));  // the rig's
  for (const PageCopy* page : pages) {
    auto put = must(kept.store->put(group, *page, kept.store->hash(group, *page)));
    kept.contents.push_back({put.ref.release(), page});
  }
  if (policy == nullptr) return kept;
  kept.reformer = must(Reformer::make(*kept.store));
  for (std::uint64_t now = 1; now <= kColdS; now += 23)
    (void)kept.reformer->step(*policy, now, kForever);
  for (int settle = 0; settle < 8; ++settle) (void)kept.reformer->step(*policy, kColdS, kForever);
  return kept;
}

struct Kind {
  const char* name;
  Form form;
  bool columns;
};

// Pages of one kind, and how they are folded and touched.
struct Sample {
  Kind kind;
  const Kept* kept;
  std::vector<Stored> pages;
  std::vector<double> p50, p99, beyond_us, decode_us;
};

Sample sample_of(const Kind& kind, const Kept& kept) {
  Sample sample{kind, &kept, {}, {}, {}, {}, {}};
  for (const Stored& content : kept.contents) {
    const Where where = where_of(*kept.store, content.id);
    if (where.form() == kind.form && (where.transpose() != Transpose::none) == kind.columns)
      sample.pages.push_back(content);
  }
  std::ranges::shuffle(sample.pages, std::mt19937(1));
  sample.pages.resize(std::min(sample.pages.size(), kPagesMax));
  if (sample.pages.size() % 7 == 0 && !sample.pages.empty()) sample.pages.pop_back();
  return sample;
}

Times folded(const Sample& sample, Placed placed) {
  const std::uint64_t pages = sample.pages.size();
  Rig rig(sample.kept->store, 1, pages);
  for (std::uint64_t p = 0; p < pages; ++p) {
    const auto at = static_cast<off_t>(p * kPageSize);
    if (::pwrite(rig.process().ram(), sample.pages[p].page->bytes.data(), kPageSize, at) !=
        static_cast<ssize_t>(kPageSize)) {
      throw std::runtime_error("no memory for a page");
    }
    (void)rig.process().read_ns(PageIndex{p});
  }
  rig.pass();
  rig.pass();
  if (rig.folded() != pages) throw std::runtime_error("not all pages are folded");
  pin_guest(rig.process(), placed);
  return touch_all(rig.process(), pages);
}

// CPU of a read, the mean over all.
double decode_us(const Sample& sample) {
  PageCopy out;
  const std::uint64_t began = thread_cpu_ns();
  for (const Stored& content : sample.pages) {
    if (sample.kept->store->get(GroupId{0}, content.id, out.bytes.data(), {}) != Got::done)
      throw std::runtime_error("a page is lost");
  }
  return static_cast<double>(thread_cpu_ns() - began) / 1e3 /
         static_cast<double>(sample.pages.size());
}

std::vector<const PageCopy*> some_of(const std::vector<GuestPages>& sets) {
  std::vector<const PageCopy*> some;
  for (const GuestPages& set : sets) {
    std::vector<const PageCopy*> all;
    for (const PageCopy& page : set.pages) all.push_back(&page);
    std::ranges::shuffle(all, std::mt19937(1));
    some.insert(some.end(), all.begin(),
                all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), kStored)));
  }
  return some;
}

int run(const std::vector<GuestPages>& sets) {
  const std::vector<const PageCopy*> pages = some_of(sets);
  ReformPolicy patches, zstd, all;
  patches.dense = patches.mixed = zstd.mixed = false;
  for (ReformPolicy* policy : {&patches, &zstd, &all})
    policy->economy.cpu_s_per_gib_hour = 3'600'000;
  const Kept as_stored = keep(pages, nullptr), patched = keep(pages, &patches),
             dense = keep(pages, &zstd), mixed = keep(pages, &all);
  std::vector<Sample> samples;
  for (const auto& [kind, kept] : {std::pair{Kind{"raw", Form::raw, false}, &as_stored},
                                   std::pair{Kind{"lz4", Form::lz4, false}, &as_stored},
                                   std::pair{Kind{"patch", Form::patch, false}, &patched},
                                   std::pair{Kind{"zstd", Form::zstd, false}, &dense},
                                   std::pair{Kind{"zstd columns", Form::zstd, true}, &dense},
                                   std::pair{Kind{"delta", Form::delta, false}, &dense},
                                   std::pair{Kind{"delta columns", Form::delta, true}, &dense},
                                   std::pair{Kind{"mix", Form::mix, false}, &mixed},
                                   std::pair{Kind{"mix_delta", Form::mix_delta, false}, &mixed}}) {
    samples.push_back(sample_of(kind, *kept));
    if (samples.back().pages.size() < kPagesMin) samples.pop_back();
  }

  const Awake awake;
  pin(0, kCore);
  Report report("fault-forms");
  for (const Placed placed : {Placed::together, Placed::apart}) {
    const std::string end = placed == Placed::together ? "" : ", core to core";
    std::vector<double> floor50, floor99;
    for (std::size_t r = 0; r < kRepeats; ++r) {
      const Times floor = echo(placed, kPagesMax);
      floor50.push_back(floor.p50);
      floor99.push_back(floor.p99);
      for (Sample& sample : samples) {
        const Times times = folded(sample, placed);
        sample.p50.push_back(times.p50);
        sample.p99.push_back(times.p99);
        if (placed == Placed::together) sample.decode_us.push_back(decode_us(sample));
      }
    }
    for (Sample& sample : samples) {
      report.add({sample.kind.name + (" p50" + end), "us", floor50, sample.p50, {}, ""});
      report.add({sample.kind.name + (" p99" + end), "us", floor99, sample.p99, {}, ""});
      if (placed == Placed::together) {
        for (std::size_t r = 0; r < kRepeats; ++r)
          sample.beyond_us.push_back(sample.p50[r] - floor50[r]);
      }
      sample.p50.clear();
      sample.p99.clear();
    }
  }
  for (const Sample& sample : samples) {
    const Reformer& chooser = *(sample.kept->reformer ? sample.kept : &dense)->reformer;
    const CostModel::Figures costs = chooser.figures().costs;
    std::vector<double> of_each;
    for (const Stored& content : sample.pages)
      of_each.push_back(believed_us(costs, *sample.kept->store, content.id));
    const std::vector<double> believed(kRepeats, median(of_each));
    const std::string name = sample.kind.name;
    report.add({name + ": p50 beyond the echo, chooser's belief as floor",
                "us",
                believed,
                sample.beyond_us,
                {},
                ""});
    report.add({name + ": read after read, chooser's belief as floor",
                "us",
                believed,
                sample.decode_us,
                {},
                ""});
  }
  return report.print();
}

}  // namespace

int main(int argc, char** argv) {
  return run_on_sets(argc, argv, [](const std::vector<NamedSet>& named) {
    std::vector<GuestPages> sets;
    for (const NamedSet& set : named) sets.push_back(load_set(set.directory));
    return run(sets);
  });
}
