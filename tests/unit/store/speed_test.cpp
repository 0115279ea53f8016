// SPDX-License-Identifier: GPL-2.0-or-later
// Figures of the store by hand: test_store '[speed]'. They are printed, not asserted.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <vector>

#include "base/clock.hpp"
#include "pages.hpp"
#include "store/codec/lz4.hpp"
#include "store/hash.hpp"
#include "stores.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

// Pages of this machine's libraries: real content, all different, none zero.
std::vector<PageCopy> real_pages(std::size_t count) {
  std::vector<PageCopy> pages;
  std::set<std::uint64_t> seen;
  std::error_code error;
  for (const auto& file : std::filesystem::recursive_directory_iterator("/usr/lib", error)) {
    if (!file.is_regular_file(error) || file.is_symlink(error)) continue;
    std::ifstream in(file.path(), std::ios::binary);
    PageCopy page;
    while (in.read(reinterpret_cast<char*>(page.bytes.data()), kPageSize)) {
      if (is_zero(page) || !seen.insert(PageHasher(1)(page.bytes.data())).second) continue;
      pages.push_back(page);
      if (pages.size() == count) return pages;
    }
  }
  return pages;
}

// Work on runs of 16 pages that were just copied, as a fold copies them; only the work is timed.
class Runs {
 public:
  Runs(const std::vector<PageCopy>& pages, const std::vector<std::size_t>& order)
      : pages_(pages), order_(order) {}

  template <typename Work>
  void time(const char* what, Work&& work) {
    constexpr std::size_t kRun = Contents::kPutRunMax;
    static std::array<PageCopy, kRun> run;
    std::vector<double> ns;
    for (std::size_t first = 0; first + kRun <= order_.size(); first += kRun) {
      const std::span<const std::size_t> numbers(&order_[first], kRun);
      for (std::size_t k = 0; k < kRun; ++k) run[k] = pages_[numbers[k]];
      const std::uint64_t before = monotonic_ns();
      work(std::span<const PageCopy>(run), numbers);
      ns.push_back(static_cast<double>(monotonic_ns() - before) / kRun);
    }
    std::ranges::sort(ns);
    std::printf("%-40s median %7.0f  p10 %7.0f  p90 %7.0f ns a page\n", what, ns[ns.size() / 2],
                ns[ns.size() / 10], ns[ns.size() * 9 / 10]);
  }

 private:
  const std::vector<PageCopy>& pages_;
  const std::vector<std::size_t>& order_;
};

}  // namespace

TEST_CASE("speed of the store", "[.][speed]") {
  auto store = must(Contents::create(ByteCount{std::uint64_t{4} << 30}));
  const GroupUse group = must(store->group("a"));
  const std::vector<PageCopy> pages = real_pages(160'000);
  std::vector<std::size_t> order(pages.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::vector<std::size_t> shuffled = order;
  std::ranges::sort(shuffled, [](auto a, auto b) { return mix(a) < mix(b); });
  std::vector<ContentHash> hashes(pages.size());
  std::vector<ContentId> ids(pages.size());
  std::array<std::byte, kPageSize> out;
  Runs in_order(pages, order);
  Runs at_random(pages, shuffled);
  using Pages = std::span<const PageCopy>;
  using Numbers = std::span<const std::size_t>;

  in_order.time("hash", [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) hashes[numbers[k]] = store->hash(group, run[k]);
  });
  in_order.time("floor: LZ4 encode alone", [&](Pages run, Numbers) {
    for (const PageCopy& page : run) lz4::encode(page, std::span(out).first(lz4::kEncodedMax));
  });
  std::vector<std::vector<std::byte>> blocks(pages.size());
  for (std::size_t i = 0; i < pages.size(); ++i) {
    const std::uint32_t length = lz4::encode(pages[i], std::span(out).first(lz4::kEncodedMax));
    blocks[i].assign(out.begin(), out.begin() + length);
  }
  const auto decode = [&](Pages, Numbers numbers) {
    for (const std::size_t number : numbers) lz4::decode(blocks[number], out.data());
  };
  in_order.time("floor: LZ4 decode alone, in order", decode);
  at_random.time("floor: LZ4 decode alone, shuffled", decode);
  blocks = {};
  const auto put_runs = [&](Pages run, Numbers numbers) {
    std::array<PutRequest, Contents::kPutRunMax> requests;
    std::array<Result<PutResult>, Contents::kPutRunMax> results;
    for (std::size_t k = 0; k < run.size(); ++k) requests[k] = {&run[k], hashes[numbers[k]]};
    store->put_run(group, requests, results);
    for (std::size_t k = 0; k < run.size(); ++k) ids[numbers[k]] = results[k]->ref.release();
  };
  const auto put_singly = [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) {
      ids[numbers[k]] = must(store->put(group, run[k], hashes[numbers[k]])).ref.release();
    }
  };
  const auto get = [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) {
      if (store->get(kFirstGroup, ids[numbers[k]], out.data(), {}) != Got::done) std::abort();
    }
  };
  const auto drop = [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) store->drop(kFirstGroup, ids[numbers[k]]);
  };
  in_order.time("put, new, in runs", put_runs);
  in_order.time("put, duplicate, in order, in runs", put_runs);
  at_random.time("put, duplicate, shuffled, in runs", put_runs);
  at_random.time("put, duplicate, shuffled, one by one", put_singly);
  in_order.time("get, in order", get);
  at_random.time("get, shuffled", get);
  const Stats stats = store->stats();
  const auto per_content = [&](ByteCount bytes) {
    return static_cast<double>(bytes.value) / static_cast<double>(pages.size());
  };
  std::printf("%zu pages, %.0f B stored a page, %zu raw\n", pages.size(),
              per_content(stats.arena_stored), static_cast<std::size_t>(stats.forms[1].contents));
  std::printf(
      "metadata %.1f B a content (index %.1f, slabs %.1f); of the arena %.1f %% holds no bytes\n",
      per_content(stats.metadata()), per_content(stats.index_bytes),
      per_content(stats.slab_map_bytes), stats.fragmentation() * 100);
  at_random.time("drop, not the last", drop);
  at_random.time("drop, not the last", drop);
  at_random.time("drop, not the last", drop);

  auto next = must(Contents::adopt(same_files(*store)));
  at_random.time("recovery: count", [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) next->count(kFirstGroup, ids[numbers[k]]);
  });
  const std::uint64_t before = monotonic_ns();
  must(next->finish_recovery());
  std::printf("recovery: finish %.0f ns a content\n",
              static_cast<double>(monotonic_ns() - before) / static_cast<double>(pages.size()));
  at_random.time("drop, the last", [&](Pages run, Numbers numbers) {
    for (std::size_t k = 0; k < run.size(); ++k) next->drop(kFirstGroup, ids[numbers[k]]);
  });
}

TEST_CASE("what churn costs the arena", "[.][speed]") {
  constexpr std::uint64_t kContents = 60'000;
  auto store = must(Contents::create(ByteCount{1u << 30}));
  const GroupUse group = must(store->group("a"));
  std::vector<ContentId> ids;
  for (std::uint64_t i = 0; i < kContents; ++i) {
    ids.push_back(put(*store, group, page_of(i)).ref.release());
  }
  std::uint64_t number = kContents;
  for (int round = 0; round <= 8; ++round) {
    std::printf("after %d replacements a content: of the arena %.1f %% holds no bytes\n", round,
                store->stats().fragmentation() * 100);
    for (std::uint64_t i = 0; i < kContents; ++i) {
      ContentId& id = ids[mix(number) % kContents];
      store->drop(kFirstGroup, id);
      id = put(*store, group, page_of(number++)).ref.release();
    }
  }
  for (std::uint64_t i = 0; i < kContents; i += 2) store->drop(kFirstGroup, ids[i]);
  std::printf("after every second was dropped: %.1f %%\n", store->stats().fragmentation() * 100);
}
