// SPDX-License-Identifier: GPL-2.0-or-later
// Compares the store's search for similar pages with the method of the paper and with a plain vote
// of smallest hashes, on the RAM of real guests (bench/corpus). As in a store, every distinct page
// that is not zero comes once, in random order. Each page found is tried as prefix for zstd at
// level 3. The best becomes the reference if it is *useful*: length <= 0.9 * length of zstd without
// prefix. A page with a reference is not entered; all others are. So the methods differ only in the
// pages that they find. The store itself (bench/run forms) has more forms, and works in turns. Each
// repeat has another order, other keys and other places. Times are medians of pages.
// usage: bench_similarity NAME SET_DIRECTORY [NAME SET_DIRECTORY]...
#include <functional>
#include <random>
#include <stdexcept>

#include "base/clock.hpp"
#include "bench/guest_pages.hpp"
#include "bench/on_sets.hpp"
#include "bench/report.hpp"
#include "bench/similarity_peers.hpp"
#include "store/codec/zstd.hpp"
#include "store/similarity/similarity_index.hpp"

using namespace ramfold;
using namespace ramfold::bench;
using namespace ramfold::store;

namespace {

constexpr int kRepeats = 3;
constexpr std::size_t kPagesMax = 300'000;  // of a set, in one repeat
constexpr int kLevel = 3;
constexpr double kUseful = 0.1;  // of what the page takes alone

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

// The store's own, as the reformer uses it.
class Ours {
 public:
  static constexpr std::size_t kTried = 4;

  Ours(std::uint64_t seed, std::size_t pages)
      : sketcher_(seed),
        index_(must(SimilarityIndex::make(static_cast<std::uint32_t>(pages) + 1))) {}
  void look(const PageCopy& page, std::vector<std::uint32_t>& found) {
    sketch_ = sketcher_(page);
    const SimilarityIndex::Candidates candidates = index_->find(sketch_);
    for (const ContentId id : candidates.all()) {
      if (found.size() < kTried) found.push_back(id.value - 1);
    }
  }
  void enter(std::uint32_t page) { index_->insert(sketch_, ContentId{page + 1}); }
  std::uint64_t bytes() const { return index_->memory().value; }

 private:
  Sketcher sketcher_;
  Sketch sketch_{};
  std::unique_ptr<SimilarityIndex> index_;
};

// What every way is judged with: encoded sizes.
class Judge {
 public:
  explicit Judge(const GuestPages& set) : set_(set), encoder_(must(zstd::Encoder::make(kLevel))) {
    for (const PageCopy& page : set.pages) alone_.push_back(size(page, nullptr));
  }
  std::uint32_t alone(std::uint32_t page) const { return alone_[page]; }
  std::uint32_t with(std::uint32_t page, std::uint32_t reference) {
    return size(set_.pages[page], set_.pages[reference].bytes.data());
  }

 private:
  std::uint32_t size(const PageCopy& page, const std::byte* prefix) {
    const std::uint32_t length = encoder_.encode(page.bytes.data(), prefix, out_);
    return length == 0 ? kPageSize : length;
  }

  const GuestPages& set_;
  zstd::Encoder encoder_;
  std::array<std::byte, kPageSize> out_;
  std::vector<std::uint32_t> alone_;
};

struct Repeat {
  std::uint64_t seed;
  std::vector<std::uint32_t> order;
};

// One figure a repeat.
struct Figures {
  std::vector<double> useful_percent;
  std::vector<double> saved_percent;
  std::vector<double> us;       // of sketch, find and, where it is entered, that
  std::vector<double> tried;    // encodings a page
  std::vector<double> indexed;  // bytes for each page that was entered
};

template <typename Way>
void run(const GuestPages& set, Judge& judge, const Repeat& repeat, Figures& to) {
  Way way(repeat.seed, set.pages.size());
  std::vector<std::uint32_t> found;
  std::vector<double> us;
  std::uint64_t stored = 0, tried = 0, entered = 0;
  for (const std::uint32_t page : repeat.order) {
    found.clear();
    const std::uint64_t began = monotonic_ns();
    way.look(set.pages[page], found);
    std::uint64_t ns = monotonic_ns() - began;
    std::uint32_t best = kPageSize;
    for (const std::uint32_t candidate : found) best = std::min(best, judge.with(page, candidate));
    tried += found.size();
    const std::uint32_t alone = judge.alone(page);
    if (best <= (1 - kUseful) * alone) {
      stored += best;
    } else {
      const std::uint64_t enters = monotonic_ns();
      way.enter(page);
      ns += monotonic_ns() - enters;
      stored += alone;
      ++entered;
    }
    us.push_back(static_cast<double>(ns) / 1e3);
  }
  const auto pages = static_cast<double>(repeat.order.size());
  to.useful_percent.push_back(100 - 100 * static_cast<double>(entered) / pages);
  to.saved_percent.push_back(100 - 100 * static_cast<double>(stored) / (pages * kPageSize));
  to.us.push_back(median(std::move(us)));
  to.tried.push_back(static_cast<double>(tried) / pages);
  to.indexed.push_back(static_cast<double>(way.bytes()) / static_cast<double>(entered));
}

// Floors: every page by itself, and a look at each of its bytes.
struct Floors {
  std::vector<double> saved_percent;
  std::vector<double> us;
};

void add_floors(const GuestPages& set, const Judge& judge, const Repeat& repeat, Floors& to) {
  std::uint64_t stored = 0, sum = 0;
  std::vector<double> us;
  for (const std::uint32_t page : repeat.order) {
    stored += judge.alone(page);
    const std::uint64_t began = monotonic_ns();
    sum ^= XXH3_64bits(set.pages[page].bytes.data(), kPageSize);
    us.push_back(static_cast<double>(monotonic_ns() - began) / 1e3);
  }
  if (sum == 0) throw std::runtime_error("all pages are equal");
  const auto pages = static_cast<double>(repeat.order.size());
  to.saved_percent.push_back(100 - 100 * static_cast<double>(stored) / (pages * kPageSize));
  to.us.push_back(median(std::move(us)));
}

void add_set(Report& report, const std::string& name, const GuestPages& set) {
  Judge judge(set);
  Figures ours, random, smallest;
  Floors floors;
  std::vector<std::uint32_t> all(set.pages.size());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  for (int n = 1; n <= kRepeats; ++n) {
    Repeat repeat{static_cast<std::uint64_t>(n), all};
    std::ranges::shuffle(repeat.order, std::mt19937_64(repeat.seed));
    repeat.order.resize(std::min(repeat.order.size(), kPagesMax));
    add_floors(set, judge, repeat, floors);
    run<Ours>(set, judge, repeat, ours);
    run<RandomBlocks>(set, judge, repeat, random);
    run<SmallestBlocks>(set, judge, repeat, smallest);
  }
  const std::string pre = name + ": ";
  report.add({pre + "distinct pages looked at",
              "",
              {},
              {static_cast<double>(std::min(set.pages.size(), kPagesMax))},
              {},
              ""});
  const auto beside = [&](const char* peer, const Figures& theirs) {
    const std::string end = std::string(" (peer: ") + peer + ")";
    report.add({pre + "find a reference that saves a tenth" + end,
                "%",
                {},
                ours.useful_percent,
                theirs.useful_percent,
                ""});
    report.add({pre + "saved, zstd-3 alone as floor" + end, "%", floors.saved_percent,
                ours.saved_percent, theirs.saved_percent, ""});
    report.add({pre + "sketch, find, insert, XXH3 as floor" + end, "us a page", floors.us, ours.us,
                theirs.us, ""});
    report.add({pre + "encodings tried" + end, "a page", {}, ours.tried, theirs.tried, ""});
    const bool fits = median(ours.indexed) <= 16;
    report.add({pre + "index for each page in it" + end,
                "B",
                {},
                ours.indexed,
                theirs.indexed,
                "<= 16",
                fits});
  };
  beside(RandomBlocks::kName, random);
  beside(SmallestBlocks::kName, smallest);
}

}  // namespace

int main(int argc, char** argv) {
  return run_on_sets(argc, argv, [](const std::vector<NamedSet>& sets) {
    Report report("similarity");
    for (const NamedSet& set : sets) add_set(report, set.name, load_set(set.directory));
    return report.print();
  });
}
