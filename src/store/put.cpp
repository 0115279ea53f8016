// SPDX-License-Identifier: GPL-2.0-or-later
// Puts pages into the store: find the page among the contents of its group; or encode it, write it,
// read it back, and publish it.
#include <array>
#include <cstring>
#include <optional>

#include "base/check.hpp"
#include "base/test_points.hpp"
#include "store/codec/forms.hpp"
#include "store/codec/lz4.hpp"
#include "store/codec/lz4_compare.hpp"
#include "store/contents.hpp"
#include "store/parts.hpp"
#include "store/scratch.hpp"

namespace ramfold::store {
namespace {

struct PutScratch {
  alignas(64) std::byte encoded[kPageSize];
  PageCopy decoded;
};

struct Encoded {
  Form form = Form::raw;
  std::span<const std::byte> bytes;
};

Encoded encode(const PageCopy& page, Admit admit) noexcept {
  if (admit == Admit::shared) return {Form::raw, page.bytes};
  std::byte* const encoded = thread_scratch<PutScratch>().encoded;
  const std::uint32_t length = lz4::encode(page, {encoded, lz4::kEncodedMax});
  if (length == 0) return {Form::raw, page.bytes};
  return {Form::lz4, {encoded, length}};
}

bool equal(const std::byte* a, const std::byte* b) noexcept {
  return std::memcmp(a, b, kPageSize) == 0;
}

// Puts one page. Gives back the references that it has taken and does not return.
class Putter {
 public:
  Putter(Contents& contents, Parts& parts, GroupId group, const PutRequest& request) noexcept
      : contents_(contents),
        parts_(parts),
        group_(group),
        page_(*request.page),
        hash_(request.hash.value),
        origin_(request.origin) {}

  // Finds the candidates: contents with the page's hash. Takes a reference to each.
  void look_up() noexcept;
  bool has_candidates() const noexcept { return candidates_.count != 0; }
  // The first candidate and the page, if they can be compared without decoding. REQUIRES: the
  // caller is in a section of `readers`.
  lz4::Comparison comparison() const noexcept;
  // The first candidate equals the page.
  void note_equal() noexcept { is_first_equal_ = true; }
  void prefetch() const noexcept;
  // The candidate that equals the page, if there is one. REQUIRES: look_up().
  std::optional<PutResult> find() noexcept;
  bool admits(Admit admit) noexcept;
  Result<PutResult> store(Admit admit);

 private:
  bool holds_page(ContentId id) noexcept;
  PutResult shared(ContentId id) noexcept;
  Status write(Extent at, const Encoded& encoded) noexcept;
  PutResult enter(ContentId id, Where where);

  Contents& contents_;
  Parts& parts_;
  GroupId group_;
  const PageCopy& page_;
  std::uint64_t hash_;
  std::uint64_t origin_;
  Index::Candidates candidates_;
  bool is_first_equal_ = false;
};

// Compares the content's bytes with the page. If they differ, it is a collision of hashes, or the
// content is damaged. REQUIRES: a reference to the content.
bool Putter::holds_page(ContentId id) noexcept {
  const Readers::Section section(parts_.readers);
  const Where where = parts_.headers->where(id);
  if (!parts_.readable(where)) return false;
  if (parts_.headers->group(id) != group_) return false;  // I4, also with a damaged index
  const std::byte* bytes = nullptr;
  if (where.form() == Form::raw) {
    bytes = parts_.data(group_, where);
  } else if (std::byte* const decoded = thread_scratch<PutScratch>().decoded.bytes.data();
             parts_.decode(id, where, decoded)) {
    bytes = decoded;
  }
  if (bytes != nullptr && equal(bytes, page_.bytes.data())) return true;
  if (bytes != nullptr && parts_.matches_checksum(id, bytes)) {
    parts_.collisions.add();
  } else {
    parts_.condemn(id, where);
  }
  return false;
}

PutResult Putter::shared(ContentId id) noexcept {
  const Form form = parts_.headers->where(id).form();
  parts_.usage.add_references(group_, form, 1);
  return {Ref(contents_, group_, id), true, form};
}

void Putter::look_up() noexcept { candidates_ = parts_.index->find(hash_, group_); }

lz4::Comparison Putter::comparison() const noexcept {
  if (candidates_.count == 0) return {};
  const ContentId id = candidates_.ids[0];
  const Where where = parts_.headers->where(id);
  if (!parts_.readable(where) || parts_.headers->group(id) != group_) return {};
  if (where.form() != Form::lz4 || where.transpose() != Transpose::none) return {};
  return {{parts_.data(group_, where), where.extent().length}, &page_};
}

void Putter::prefetch() const noexcept {
  if (candidates_.count == 0 || is_first_equal_) return;
  const Where where = parts_.headers->where(candidates_.ids[0]);
  if (where.sound(parts_.arena->size())) parts_.prefetch(group_, where);
}

std::optional<PutResult> Putter::find() noexcept {
  std::optional<PutResult> found;
  for (std::size_t i = 0; i < candidates_.count; ++i) {
    const ContentId id = candidates_.ids[i];
    if (!found && ((i == 0 && is_first_equal_) || holds_page(id))) {
      found = shared(id);
    } else {
      parts_.drop_uncounted(id);
    }
  }
  return found;
}

Status Putter::write(Extent at, const Encoded& encoded) noexcept {
  std::byte* to = parts_.arena->data(at);
  const std::size_t half = encoded.bytes.size() / 2;
  std::memcpy(to, encoded.bytes.data(), half);
  TEST_POINT("store.write");
  std::memcpy(to + half, encoded.bytes.data() + half, encoded.bytes.size() - half);
  std::byte* decoded = thread_scratch<PutScratch>().decoded.bytes.data();
  if (!decode({encoded.form}, {to, encoded.bytes.size()}, nullptr, decoded) ||
      !equal(decoded, page_.bytes.data())) {
    return fail("the stored bytes do not decode to the page", EIO);
  }
  if (parts_.hash(*parts_.groups->hasher(group_), decoded) != hash_) {
    return fail("the hash is not the page's", EINVAL);
  }
  return {};
}

bool Putter::admits(Admit admit) noexcept {
  switch (admit) {
    case Admit::all: return true;
    case Admit::shared: return parts_.twins.asked_before(hash_, origin_);
    case Admit::existing: break;
  }
  return false;
}

Result<PutResult> Putter::store(Admit admit) {
  const Encoded encoded = encode(page_, admit);
  const auto at = parts_.arena->allocate(static_cast<std::uint32_t>(encoded.bytes.size()));
  if (!at) return std::unexpected(at.error());
  const auto id = parts_.headers->allocate();
  if (!id) {
    parts_.free(*at, group_);
    return std::unexpected(id.error());
  }
  TEST_POINT("store.alloc");
  if (auto written = write(*at, encoded); !written) {
    parts_.headers->give_back(*id);
    parts_.free(*at, group_);
    return std::unexpected(written.error());
  }
  if (!parts_.groups->add_use(group_)) {
    parts_.headers->give_back(*id);
    parts_.free(*at, group_);
    return fail("nobody uses the group", EINVAL);
  }
  const Where where(*at, encoded.form);
  parts_.headers->publish(*id, hash_, group_, where);
  parts_.usage.add_content(group_, where.form(), at->length);
  return enter(*id, where);
}

// Enters the content into the index, unless another worker has stored the same page since find().
PutResult Putter::enter(ContentId id, Where where) {
  auto other = parts_.index->insert(hash_, group_, id, Index::OnEqual::report);
  if (other) {
    if (holds_page(*other)) {
      PutResult result = shared(*other);
      parts_.drop_uncounted(id);
      return result;
    }
    parts_.drop_uncounted(*other);
    other = parts_.index->insert(hash_, group_, id, Index::OnEqual::insert_anyway);
    DENSURE(!other);
  }
  TEST_POINT("store.index");
  parts_.usage.add_references(group_, where.form(), 1);
  return {Ref(contents_, group_, id), false, where.form()};
}

using Putters = std::array<std::optional<Putter>, Contents::kPutRunMax>;

// Compares pages with their first candidates, two at a time. Putters without a note compare
// themselves later.
void compare_first(Parts& parts, Putters& putters, std::size_t count) noexcept {
  const Readers::Section section(parts.readers);
  std::array<lz4::Pair, 2> pairs;  // this one, and the next one
  std::array<std::array<Putter*, 2>, 2> of{};
  std::size_t i = 0;
  const auto fill = [&](std::size_t which) {
    pairs[which] = {};
    std::size_t k = 0;
    for (; i < count && k < pairs[which].size(); ++i) {
      if (!putters[i]) continue;
      pairs[which][k] = putters[i]->comparison();
      if (!pairs[which][k].block.empty()) of[which][k++] = &*putters[i];
    }
    return k;
  };
  std::size_t here = fill(0);
  for (std::size_t k = 0; k < here; ++k) {
    const std::span<const std::byte> block = pairs[0][k].block;
    Arena::prefetch(block.data(), static_cast<std::uint32_t>(block.size()));
  }
  for (std::size_t which = 0; here != 0; which = 1 - which) {
    const std::size_t there = fill(1 - which);
    lz4::compare(pairs[which], pairs[1 - which]);
    for (std::size_t k = 0; k < here; ++k) {
      if (pairs[which][k].equal) of[which][k]->note_equal();
    }
    here = there;
  }
}

}  // namespace

Result<PutResult> Contents::put(GroupId group, const PageCopy& page, ContentHash hash) {
  const PutRequest request{&page, hash};
  Result<PutResult> result;
  put_run(group, {&request, 1}, {&result, 1});
  return result;
}

void Contents::put_run(GroupId group, std::span<const PutRequest> requests,
                       std::span<Result<PutResult>> out, Admit admit) {
  ENSURE(requests.size() == out.size() && requests.size() <= kPutRunMax);
  ENSURE(parts_->groups->hasher(group) != nullptr);
  Parts& parts = *parts_;
  const bool is_ready = parts.phase.load(std::memory_order_acquire) == Phase::ready;
  // Most of the time here would be waiting for memory. So several loops walk over the run, and each
  // one prefetches memory for the next: buckets, headers, bytes.
  Putters putters;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const PageCopy& page = *requests[i].page;
    if (is_zero(page)) {
      out[i] = PutResult{Ref(*this, group, kZeroContent), true, Form::zero};
    } else if (parts.is_stopped(group)) {
      out[i] = fail("the group's references do not add up", EUCLEAN);
    } else if (!is_ready) {
      out[i] = fail("the store is recovering", EAGAIN);
    } else {
      parts.index->prefetch_buckets(requests[i].hash.value);
      putters[i].emplace(*this, parts, group, requests[i]);
    }
  }
  for (std::size_t i = 0; i < requests.size() && requests.size() > 1; ++i) {
    if (putters[i]) parts.index->prefetch_headers(requests[i].hash.value);
  }
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (putters[i]) putters[i]->look_up();
  }
  compare_first(parts, putters, requests.size());
  if (putters[0]) putters[0]->prefetch();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (i + 1 < requests.size() && putters[i + 1]) putters[i + 1]->prefetch();
    if (!putters[i]) continue;
    // An equal page may have been stored earlier in this run.
    if (i > 0 && !putters[i]->has_candidates()) putters[i]->look_up();
    if (auto found = putters[i]->find()) {
      out[i] = std::move(*found);
    } else if (putters[i]->admits(admit)) {
      out[i] = putters[i]->store(admit);
    } else {
      out[i] = PutResult{};
    }
  }
}

}  // namespace ramfold::store
