// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/mapper.hpp"

#include <bit>
#include <chrono>
#include <utility>

#include "base/check.hpp"
#include "base/test_points.hpp"
#include "classify/classify.hpp"

namespace ramfold::fold {

using guest::Tag;
using namespace std::chrono_literals;

namespace {

// An agent answers within a millisecond. A run whose answer comes later is kept and looked after.
constexpr auto kWait = 200ms;

}  // namespace

AgentRun& Mapper::Left::run() const noexcept {
  if (sharing) return *sharing;
  return *restoring;
}

Settled Mapper::Left::settle() const noexcept {
  return sharing ? sharing->settle() : restoring->settle();
}

Mapper::Mapper(guest::Vm& vm, store::Contents& contents, GroupId group, VmPool& pool)
    : vm_(vm), contents_(contents), group_(group), pool_(pool), vmas_(vm.pid(), vm.files().pidfd) {}

Mapper::~Mapper() {
  for (Left& left : left_) {
    if (left.sharing) left.sharing->abandon();
    if (left.restoring) left.restoring->abandon();
    for (store::Ref& ref : left.refs) {
      if (ref) (void)ref.release();  // a word may name it: the next daemon counts
    }
  }
}

guest::PageMask Mapper::with_slots(PageRun run) const noexcept {
  guest::PageMask with = 0;
  for (unsigned i = 0; i < run.count.value; ++i) {
    if (pool_.slot_of(PageIndex{run.first.value + i})) with |= bit(i);
  }
  return with;
}

// What each page may equal, and a reference to it. The run compares, so this is only a guess.
void Mapper::believe(PageRun run, guest::PageMask wanted, Contents& contents, Refs& refs) noexcept {
  contents.fill(kZeroContent);
  std::array<store::PutRequest, kAgentRunPages.value> requests;
  std::array<unsigned, kAgentRunPages.value> page_of{};
  std::size_t count = 0;
  for_each_bit(wanted, [&](unsigned i) {
    const PageIndex p{run.first.value + i};
    const guest::LoadedWord word = vm_.table().load(p);
    if (!word) return;
    if (word->tag() == Tag::clean) {
      // The word has a reference as long as it is clean; the run looks at the word as its owner.
      if (contents_.is_shared(group_, word->content())) contents[i] = word->content();
      return;
    }
    if (word->tag() != Tag::observed) return;
    if (!vm_.read_pages({p, PageCount{1}}, copies_[i].bytes.data())) return;
    const ContentHash hash = contents_.hash(group_, copies_[i]);
    if (classify::observed_bits(hash) != word->payload()) return;
    requests[count] = {&copies_[i], hash, 0};
    page_of[count++] = i;
  });
  if (count == 0) return;
  std::array<Result<store::PutResult>, kAgentRunPages.value> results;
  contents_.put_run(group_, std::span(requests).first(count), std::span(results).first(count),
                    store::Admit::existing);
  for (std::size_t k = 0; k < count; ++k) {
    if (!results[k] || !results[k]->ref || results[k]->ref.id() == kZeroContent) continue;
    contents[page_of[k]] = results[k]->ref.id();
    refs[page_of[k]] = std::move(results[k]->ref);
  }
}

unsigned Mapper::share(PageRun run, guest::PageMask wanted, const Port& port,
                       guest::QuietProof& pins) {
  ENSURE(run.count <= kAgentRunPages);
  if (!settled()) return 0;
  Contents contents;
  Refs refs;
  believe(run, wanted, contents, refs);
  if (std::ranges::all_of(contents, [](ContentId id) { return id == kZeroContent; })) return 0;
  auto sharing = std::make_unique<SharingRun>(vm_, vmas_, pins, pool_, run,
                                              std::span(contents).first(run.count.value));
  TEST_POINT("map.equal");
  if (sharing->map(*port, kWait) == Settled::yes) return finish(*sharing, refs);
  left_.push_back({port, std::move(sharing), nullptr, std::move(refs)});
  return 0;
}

unsigned Mapper::restore(PageRun run, const Port& port, guest::QuietProof& copies) {
  ENSURE(run.count <= kAgentRunPages);
  if (!settled()) return 0;
  auto restoring = std::make_unique<RestoringRun>(vm_, vmas_, copies, pool_, run);
  TEST_POINT("map.guarded");
  if (restoring->restore(*port, kWait) == Settled::yes) return finish(*restoring);
  left_.push_back({port, nullptr, std::move(restoring), {}});
  return 0;
}

bool Mapper::settle(const Port& port) {
  for (auto left = left_.begin(); left != left_.end();) {
    AgentRun& run = left->run();
    if (run.waits_for() == WaitsFor::answer) (void)run.look_for_answer(*left->port, 0ms);
    const bool may =
        run.waits_for() == WaitsFor::kernel || !vm_.alive() ||
        (run.waits_for() == WaitsFor::fence && port && port != left->port && port->is_open());
    if (!may || left->settle() == Settled::no) {
      ++left;
      continue;
    }
    if (left->sharing) {
      (void)finish(*left->sharing, left->refs);
    } else {
      (void)finish(*left->restoring);
    }
    left = left_.erase(left);
  }
  return left_.empty();
}

unsigned Mapper::finish(const SharingRun& run, Refs& refs) noexcept {
  TEST_POINT("map.settled");
  for_each_bit(without(run.mapped(), run.mapped_from_clean()), [&](unsigned i) {
    (void)refs[i].release();  // it is the word's
  });
  for_each_bit(run.emptied(), [&](unsigned i) { drop(run.content(i)); });
  return static_cast<unsigned>(std::popcount(run.mapped()));
}

unsigned Mapper::finish(const RestoringRun& run) noexcept {
  for_each_bit(run.restored(), [&](unsigned i) { drop(run.content(i)); });
  return static_cast<unsigned>(std::popcount(run.restored()));
}

void Mapper::drop(ContentId content) noexcept {
  if (contents_.drop(group_, content) == store::Booked::refused)
    vm_.stop_folding(guest::Inconsistency::references);
}

}  // namespace ramfold::fold
