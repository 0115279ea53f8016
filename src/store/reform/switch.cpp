// SPDX-License-Identifier: GPL-2.0-or-later
// Changes the bytes of a content, in the steps that reformer.hpp lists.
#include <cstring>

#include "base/check.hpp"
#include "base/clock.hpp"
#include "base/test_points.hpp"
#include "store/parts.hpp"
#include "store/reform/reformer.hpp"

namespace ramfold::store {
namespace {

std::uint32_t slot_bytes(std::uint32_t length) noexcept {
  return kSizeClasses.of[class_of(length)].bytes;
}

}  // namespace

bool Reformer::give(const Visit& visit) {
  parts_.moving.mutex.is_held();
  HeaderTable& headers = *parts_.headers;
  const FormSearch::Found& found = search_.best();
  const bool needs = needs_reference(found.shape.form);
  const bool has = visit.where.has_reference();
  const ContentId reference = needs ? references_->all[found.reference].id : kZeroContent;
  DENSURE(!needs || visit.dependents == 0);
  if (needs && !has && !headers.back_references(visit.id)) return false;
  const auto at = parts_.arena->allocate(found.length);
  if (!at) return false;
  if ((needs && !parts_.may_refer(reference, visit.group)) || !write(*at)) {
    parts_.free(*at, visit.group);
    return false;
  }
  if (needs && !has) {
    headers.notes(reference).add_dependent();
    headers.set_reference(visit.id, reference);
    costs_.learn_reference(references_->all[found.reference].shape);
    TEST_POINT("reform.reference");
  }
  const Where next(*at, found.shape.form, found.shape.transpose);
  if (!headers.switch_where(visit.id, visit.where, next)) {  // marked bad meanwhile
    if (needs && !has) headers.notes(reference).remove_dependent();
    parts_.free(*at, visit.group);
    return false;
  }
  TEST_POINT("reform.switch");
  parts_.account_switch(visit.id, visit.group, visit.where, next, 1);
  parts_.moving.left.push_back({visit.id, visit.group, visit.where,
                                has && !needs ? headers.reference(visit.id) : kZeroContent});
  given_[static_cast<std::size_t>(next.form())].add();
  if (visit.orphaned) rewritten_.add();
  const std::uint32_t before = slot_bytes(visit.where.extent().length);
  const std::uint32_t after = slot_bytes(found.length);
  if (after < before) saved_bytes_.add(before - after);
  changed_ = true;
  return true;
}

// Writes the best form's bytes and reads them back. False: they do not decode to the page.
// REQUIRES: the slot is from allocate(), and no header names it.
bool Reformer::write(Extent at) noexcept {
  const std::span<const std::byte> from = search_.bytes();
  std::byte* const to = parts_.arena->data(at);
  const std::size_t half = from.size() / 2;
  std::memcpy(to, from.data(), half);
  TEST_POINT("reform.write");
  std::memcpy(to + half, from.data() + half, from.size() - half);
  PageCopy& back = pages_->back();
  const FormSearch::Found& found = search_.best();
  // The copy of the reference that this visit has decoded and checked.
  const std::byte* const prefix = needs_reference(found.shape.form)
                                      ? references_->all[found.reference].page.bytes.data()
                                      : nullptr;
  const std::uint64_t begin = monotonic_ns();
  if (!decode(found.shape, {to, from.size()}, prefix, back.bytes.data())) return false;
  costs_.learn_decode(found.shape, static_cast<double>(monotonic_ns() - begin));
  return back.bytes == pages_->front().bytes;
}

// Moves the bytes to a fuller slab, or further to the front of their slab. REQUIRES: the caller
// holds a reference to `id`. True: settle() will give it up.
bool Reformer::move(ContentId id) {
  parts_.moving.mutex.is_held();
  const Where where = parts_.headers->where(id);
  if (where.place() != Place::arena || !parts_.headers->is_intact(id, where)) return false;
  const Extent from = where.extent();
  const auto to = parts_.arena->allocate_denser(from);
  if (!to) return false;
  std::memcpy(parts_.arena->data(*to), parts_.arena->data(from), from.length);
  const bool equal =
      std::memcmp(parts_.arena->data(*to), parts_.arena->data(from), from.length) == 0;
  TEST_POINT("reform.moved");
  if (!equal ||
      !parts_.headers->switch_where(id, where, Where(*to, where.form(), where.transpose()))) {
    parts_.free(*to, parts_.headers->group(id));
    return false;
  }
  TEST_POINT("reform.switch");
  parts_.moving.left.push_back({id, parts_.headers->group(id), where});
  moved_.add();
  changed_ = true;
  return true;
}

}  // namespace ramfold::store
