// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/usage.hpp"

#include <algorithm>

#include "store/group.hpp"

namespace ramfold::store {

Result<Usage> Usage::make() {
  auto memory = sys::Mapping::anonymous(ByteCount{kGroupsMax * sizeof(Group)});
  if (!memory) return std::unexpected(memory.error());
  return Usage(std::move(*memory));
}

void Usage::clear(GroupId group) noexcept {
  for (Stripe& stripe : memory_.as<Group>()[group.value]) {
    for (Cell& c : stripe.forms) {
      c.contents.store(0, std::memory_order_relaxed);
      c.references.store(0, std::memory_order_relaxed);
      c.stored.store(0, std::memory_order_relaxed);
    }
  }
}

// One thread may subtract what another thread has added. So a stripe can be negative, and only the
// sum means something. The stripes are not read at one moment, so the sum may be off by the changes
// meanwhile; it is never shown below zero.
FormStats Usage::sum(GroupId group, Form form) const noexcept {
  std::int64_t contents = 0;
  std::int64_t references = 0;
  std::int64_t stored = 0;
  for (const Stripe& stripe : memory_.as<Group>()[group.value]) {
    const Cell& c = stripe.forms[static_cast<std::size_t>(form)];
    contents += c.contents.load(std::memory_order_relaxed);
    references += c.references.load(std::memory_order_relaxed);
    stored += c.stored.load(std::memory_order_relaxed);
  }
  const auto shown = [](std::int64_t n) {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(n, 0));
  };
  return {shown(contents), shown(references), ByteCount{shown(stored)}};
}

}  // namespace ramfold::store
