// SPDX-License-Identifier: GPL-2.0-or-later
#include "fold/agent_run.hpp"

#include "base/test_points.hpp"
#include "guest/ram_mapping.hpp"

namespace ramfold::fold {

using guest::AgentAnswer;

Status AgentRun::look(Mask pages) noexcept {
  std::optional<sys::MappedRange> range;
  for (unsigned i = 0; i < run_.count.value; ++i) {
    if ((pages & bit(i)) == 0) continue;
    maps_[i] = Maps::other;
    const std::uint64_t at = vm_.address_of(page(i)).value;
    if (!range || at >= range->end) {
      auto found = vmas_.at(HostVirt{at});
      if (!found) return std::unexpected(found.error());
      range = *found;
    }
    if (!range) continue;
    const guest::RamFileId file{range->device, range->inode};
    if (guest::maps_ram(vm_, page(i), *range)) {
      maps_[i] = Maps::ram;
    } else if (file == pool_.file() && !range->shared) {
      maps_[i] = Maps::pool;
      in_pool_[i] = ByteCount{range->offset + (at - range->begin)};
    }
  }
  return {};
}

AgentRun::Mask AgentRun::that_map(Mask pages, Maps what) const noexcept {
  Mask found = 0;
  for_each_bit(pages, [&](unsigned i) {
    if (maps_[i] == what) found |= bit(i);
  });
  return found;
}

AgentRun::Mask AgentRun::quiet(guest::QuietProof& proof, Mask pages) noexcept {
  Mask found = 0;
  for_each_run(pages, [&](unsigned first, unsigned count) {
    const PageRun part{page(first), PageCount{count}};
    const guest::PageMask all = guest::all_pages(part.count);
    found |= static_cast<Mask>((proof.ask(vm_, part, all).quiet & all) << first);
  });
  return found;
}

Settled AgentRun::ask(guest::AgentPort& agent, guest::AgentAct act, Mask pages,
                      std::span<const ByteCount> slots, std::chrono::milliseconds wait) {
  std::array<PageRun, kAgentRunPages.value> runs;
  std::array<ByteCount, kAgentRunPages.value> where;
  std::size_t count = 0;
  for_each_bit(pages, [&](unsigned i) {
    const bool follows =
        count != 0 && runs[count - 1].end() == page(i) &&
        (slots.empty() ||
         where[count - 1].value + bytes(runs[count - 1].count).value == slots[i].value);
    if (follows) {
      ++runs[count - 1].count.value;
    } else {
      runs[count] = {page(i), PageCount{1}};
      if (!slots.empty()) where[count] = slots[i];
      ++count;
    }
  });
  const auto sent = agent.send(act, std::span(runs).first(count),
                               std::span(where).first(slots.empty() ? 0 : count));
  if (!sent) return Settled::yes;  // nothing was done
  TEST_POINT("map.sent");
  token_ = *sent;
  waits_for_ = WaitsFor::answer;
  const WaitsFor now = look_for_answer(agent, wait);
  TEST_POINT("map.answered");
  return now == WaitsFor::kernel ? Settled::yes : Settled::no;
}

WaitsFor AgentRun::look_for_answer(guest::AgentPort& agent, std::chrono::milliseconds wait) {
  if (waits_for_ != WaitsFor::answer) return waits_for_;
  if (const auto answer = agent.take(token_, wait)) {
    waits_for_ = *answer == AgentAnswer::lost ? WaitsFor::fence : WaitsFor::kernel;
  }
  return waits_for_;
}

AgentRun::Owned AgentRun::own_mapped(std::span<guest::Word> words) noexcept {
  guest::PageTable& table = vm_.table();
  Owned owned;
  for (unsigned i = 0; i < run_.count.value; ++i) {
    if (!table.take_for_restoring(page(i))) {
      owned.any_busy = true;
      continue;
    }
    const guest::LoadedWord word = table.load(page(i));
    if (!word || word->tag() != guest::Tag::mapped) {
      vm_.release(page(i));
      continue;
    }
    owned.pages |= bit(i);
    words[i] = *word;
  }
  return owned;
}

void AgentRun::lift(Mask pages) noexcept {
  for_each_run(pages, [&](unsigned first, unsigned count) {
    // Where the mapping was replaced there is no guard, and the call says so.
    (void)vm_.uffd().lift(vm_.range_of({page(first), PageCount{count}}), sys::Wake::yes);
  });
}

void AgentRun::release(Mask pages) noexcept {
  for_each_run(pages,
               [&](unsigned first, unsigned count) { vm_.wake({page(first), PageCount{count}}); });
  for_each_bit(pages, [&](unsigned i) { vm_.release(page(i)); });
}

}  // namespace ramfold::fold
