// SPDX-License-Identifier: GPL-2.0-or-later
// Figures of the store by hand: test_store '[speed]'. They are printed, not asserted.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>

#include "base/clock.hpp"
#include "pages.hpp"
#include "store/codec/lz4.hpp"

using namespace ramfold;
using namespace ramfold::store;
using namespace ramfold::store::test;

namespace {

template <typename Work>
void report(const char* what, std::size_t pages, Work&& work) {
  const std::uint64_t before = thread_cpu_ns();
  work();
  std::printf("%-42s %8.0f ns a page\n", what,
              static_cast<double>(thread_cpu_ns() - before) / static_cast<double>(pages));
}

}  // namespace

TEST_CASE("speed of the store", "[.][speed]") {
  constexpr std::size_t kPages = 200'000;
  auto store = must(Contents::create(ByteCount{std::uint64_t{4} << 30}));
  const GroupId group = must(store->group("a"));
  std::vector<PageCopy> pages(kPages);
  for (std::size_t i = 0; i < kPages; ++i) pages[i] = page_of(i);
  std::vector<ContentHash> hashes(kPages);
  std::vector<ContentId> ids(kPages);
  std::array<std::byte, kPageSize> out;

  report("hash", kPages, [&] {
    for (std::size_t i = 0; i < kPages; ++i) hashes[i] = store->hash(group, pages[i]);
  });
  report("floor: LZ4 encode alone", kPages, [&] {
    for (const PageCopy& page : pages) lz4::encode(page, out);
  });
  const auto in_runs = [&](bool expect_existing) {
    std::array<PutRequest, Contents::kPutRunMax> requests;
    std::array<Result<PutResult>, Contents::kPutRunMax> results;
    for (std::size_t i = 0; i < kPages; i += requests.size()) {
      for (std::size_t k = 0; k < requests.size(); ++k) requests[k] = {&pages[i + k], hashes[i + k]};
      store->put_run(group, requests, results);
      for (std::size_t k = 0; k < requests.size(); ++k) {
        if (results[k]->existed != expect_existing) std::abort();
        ids[i + k] = results[k]->ref.release();
      }
    }
  };
  report("put, new, runs of 16", kPages, [&] { in_runs(false); });
  report("put, duplicate, runs of 16", kPages, [&] { in_runs(true); });
  std::vector<std::size_t> order(kPages);
  for (std::size_t i = 0; i < kPages; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [](auto a, auto b) { return mix(a) < mix(b); });
  report("floor: memcpy of the pages, shuffled", kPages, [&] {
    for (const std::size_t i : order) std::memcpy(out.data(), &pages[i], kPageSize);
  });
  report("put, duplicate, one by one, shuffled", kPages, [&] {
    for (const std::size_t i : order) {
      ids[i] = must(store->put(group, pages[i], hashes[i])).ref.release();
    }
  });
  report("get, in order", kPages, [&] {
    for (std::size_t i = 0; i < kPages; ++i) {
      if (store->get(ids[i], out.data(), {}) != Got::done) std::abort();
    }
  });
  report("get, shuffled", kPages, [&] {
    for (const std::size_t i : order) {
      if (store->get(ids[i], out.data(), {}) != Got::done) std::abort();
    }
  });
  const Stats stats = store->stats();
  std::printf("metadata %.1f B a content (index %.1f, slabs %.1f), fragmentation %.1f %%, slots lose %.1f %%\n",
              static_cast<double>(stats.metadata().value) / kPages,
              static_cast<double>(stats.index_bytes.value) / kPages,
              static_cast<double>(stats.slab_map_bytes.value) / kPages,
              stats.fragmentation() * 100,
              100 - 100.0 * static_cast<double>(stats.arena_stored.value) /
                        static_cast<double>(stats.arena_in_slots.value));
  report("drop, one of three", kPages, [&] {
    for (const std::size_t i : order) store->drop(ids[i]);
  });
  auto next = must(Contents::adopt(same_files(*store)));
  report("recovery: count", kPages, [&] {
    for (const std::size_t i : order) next->count(ids[i]);
  });
  report("recovery: finish", kPages, [&] { must(next->finish_recovery()); });
  report("drop, last, shuffled", kPages, [&] {
    for (const std::size_t i : order) next->drop(ids[i]);
  });
}
