// SPDX-License-Identifier: GPL-2.0-or-later
// Measures the store's forms on the RAM of real guests (bench/corpus): memory with each mechanism
// on and off, against exact sharing alone (an ideal KSM) and against LZ4 of every page by itself
// (as zram does); fragmentation and metadata; CPU; and the read time that the chooser of forms
// assumes against the measured one. Offline: every page is put once and stays cold; pages are read
// in random order. Each variant runs once: the saving does not vary, and two sets take half an
// hour.
// usage: bench_forms NAME SET_DIRECTORY [NAME SET_DIRECTORY]...
#include <random>

#include "base/clock.hpp"
#include "bench/guest_pages.hpp"
#include "bench/on_sets.hpp"
#include "bench/peers.hpp"
#include "bench/report.hpp"
#include "bench/store_headers.hpp"
#include "store/contents.hpp"
#include "store/reform/reformer.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using namespace ramfold::bench;
using namespace ramfold::store;

namespace {

constexpr std::uint64_t kForever = ~std::uint64_t{0} / 4;
constexpr std::uint64_t kColdS = 300;  // as the guests of live-savings

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().text());
  return std::move(*result);
}

struct Kept {
  std::unique_ptr<Contents> store;
  std::unique_ptr<Reformer> reformer;
  std::vector<ContentId> ids;
  double encode_us = 0;  // CPU a content, rounds included

  double saved_percent(const GuestPages& set) const {
    const Stats s = store->stats();
    const auto spent = static_cast<double>(s.arena_allocated.value + s.metadata().value);
    return 100 - 100 * spent / (static_cast<double>(set.nonzero_count) * kPageSize);
  }
};

Kept keep(const GuestPages& set, const ReformPolicy& policy) {
  Kept kept;
  kept.store = must(Contents::create(ByteCount{std::uint64_t{8} << 30}));
  const GroupUse group = must(kept.store->group("bench"));
  kept.reformer = must(Reformer::make(*kept.store));
  for (const PageCopy& page : set.pages) {
    kept.ids.push_back(
        must(kept.store->put(group, page, kept.store->hash(group, page))).ref.release());
  }
  const std::uint64_t began = thread_cpu_ns();
  for (std::uint64_t now = 1; now <= kColdS; now += 23) {
    (void)kept.reformer->step(policy, now, kForever);
  }
  for (int settle = 0; settle < 8; ++settle) (void)kept.reformer->step(policy, kColdS, kForever);
  kept.encode_us =
      static_cast<double>(thread_cpu_ns() - began) / 1e3 / static_cast<double>(set.pages.size());
  kept.store->trim_all();
  return kept;
}

ReformPolicy dense() {
  ReformPolicy policy;
  policy.economy.cpu_s_per_gib_hour = 3'600'000;  // reform.policy = "dense"
  return policy;
}

// By form: the median time of get() in random order, and of what the chooser holds it for.
void add_decoding(Report& report, const std::string& set, Kept& kept) {
  const ReformFigures figures = kept.reformer->figures();
  std::ranges::shuffle(kept.ids, std::mt19937(1));
  std::array<std::vector<double>, kForms> us, believed;
  PageCopy out;
  for (const ContentId id : kept.ids) {
    const auto form = static_cast<std::size_t>(kept.store->form(id));
    believed[form].push_back(believed_us(figures.costs, *kept.store, id));
    const std::uint64_t began = monotonic_ns();
    if (kept.store->get(GroupId{0}, id, out.bytes.data(), {}) != Got::done)
      throw std::runtime_error("a page is lost");
    us[form].push_back(static_cast<double>(monotonic_ns() - began) / 1e3);
  }
  for (std::size_t form = 1; form < kForms; ++form) {
    if (us[form].size() < 100) continue;
    report.add({set + ": read " + std::string(name_of(static_cast<Form>(form))) +
                    ", chooser's belief as floor",
                "us",
                {median(believed[form])},
                {median(us[form])},
                {},
                ""});
  }
}

// What it takes to look for references, beside trying them.
void add_looking(Report& report, const std::string& name, const GuestPages& set) {
  const Sketcher sketcher(1);
  const auto index = must(SimilarityIndex::make(static_cast<std::uint32_t>(set.pages.size()) + 1));
  std::vector<double> sketch_us, find_us;
  for (std::uint32_t i = 0; i < set.pages.size(); ++i) {
    const std::uint64_t began = monotonic_ns();
    const Sketch sketch = sketcher(set.pages[i]);
    const std::uint64_t sketched = monotonic_ns();
    (void)index->find(sketch);
    index->insert(sketch, ContentId{i + 1});
    find_us.push_back(static_cast<double>(monotonic_ns() - sketched) / 1e3);
    sketch_us.push_back(static_cast<double>(sketched - began) / 1e3);
  }
  report.add({name + ": sketch", "us", {}, {median(sketch_us)}, {}, ""});
  report.add({name + ": find and insert", "us", {}, {median(find_us)}, {}, ""});
}

void add_set(Report& report, const std::string& name, const GuestPages& set) {
  const Peers peers = peers_of(set);
  struct Variant {
    const char* what;
    bool similar;
    bool zstd;
    bool mixed;
    bool compact;
  };
  constexpr std::array kVariants{Variant{"all forms", true, true, true, true},
                                 Variant{"without similar pages", false, true, true, true},
                                 Variant{"without zstd and mixing", true, false, false, true},
                                 Variant{"without mixing", true, true, false, true},
                                 Variant{"without compaction", true, true, true, false},
                                 Variant{"exact and LZ4 only", false, false, false, true}};
  add_looking(report, name, set);
  report.add(
      {name + ": ideal KSM saves (peer: LZ4 of each page)", "%", {}, {peers.ksm}, {peers.lz4}, ""});
  for (const Variant& variant : kVariants) {
    ReformPolicy policy = dense();
    policy.similar = variant.similar;
    policy.dense = variant.zstd;
    policy.mixed = variant.mixed;
    policy.compact = variant.compact;
    Kept kept = keep(set, policy);
    const Stats stats = kept.store->stats();
    report.add(
        {name + ": " + variant.what + ", saved net", "%", {}, {kept.saved_percent(set)}, {}, ""});
    report.add(
        {name + ": " + variant.what + ", CPU a content", "us", {}, {kept.encode_us}, {}, ""});
    if (&variant != kVariants.data()) continue;
    add_decoding(report, name, kept);
    const double fragmentation = 100 * stats.fragmentation();
    report.add({name + ": lost to fragmentation",
                "%",
                {},
                {fragmentation},
                {},
                "<= 8 %",
                fragmentation <= 8});
    const double metadata =
        static_cast<double>(stats.metadata().value) / static_cast<double>(set.pages.size());
    report.add({name + ": metadata a content", "B", {}, {metadata}, {}, "<= 56 B", metadata <= 56});
  }
  const Kept kept = keep(set, ReformPolicy{});
  report.add(
      {name + ": all forms, balanced, saved net", "%", {}, {kept.saved_percent(set)}, {}, ""});
}

}  // namespace

int main(int argc, char** argv) {
  return run_on_sets(argc, argv, [](const std::vector<NamedSet>& sets) {
    Report report("forms");
    for (const NamedSet& set : sets) add_set(report, set.name, load_set(set.directory));
    return report.print();
  });
}
