// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/census.hpp"

#include "base/check.hpp"

namespace ramfold::estimate {
namespace {

// Any seed will do: the estimate shares no page.
constexpr std::uint64_t kSeed = 0x72'61'6d'66'6f'6c'64;
constexpr std::uint64_t kProgressEvery = 4096;  // pages

}  // namespace

struct Census::Alone {
  VmCensus vm;
  std::uint32_t number = 0;
  std::unordered_map<std::uint32_t, std::uint32_t> held;  // distinct page -> index into vm.held
  // References among the pages of this VM alone. Null for the first VM: Census::references_ has the
  // same pages then.
  std::unique_ptr<References> references;
};

Census::Census(std::uint32_t one_of) : one_of_(one_of), hash_(kSeed), sketch_(kSeed) {
  ENSURE(one_of != 0);
}
Census::~Census() = default;

bool Census::read(ContentId id, PageCopy& into) {
  const DistinctPage& page = distinct_[id.value - 1];
  return sources_[page.vm]->read(page.place, into);
}

Status Census::add(std::string name, RamSource& source, const Progress& progress) {
  Alone alone;
  alone.vm.name = std::move(name);
  alone.vm.size = source.size();
  alone.number = static_cast<std::uint32_t>(vms_.size());
  sources_.push_back(&source);
  const auto make = [this](std::unique_ptr<References>& references) -> Status {
    auto made = References::make([this](ContentId id, PageCopy& into) { return read(id, into); });
    if (!made) return std::unexpected(made.error());
    references = std::make_unique<References>(std::move(*made));
    return {};
  };
  if (references_ == nullptr) {
    if (auto made = make(references_); !made) return made;
  } else if (auto made = make(alone.references); !made) {
    return made;
  }
  Status status;
  std::uint64_t unsaid = 0;
  const Status walked = source.each([&](PageIndex place, const PageCopy& page) {
    status = look_at(alone, place, page);
    if (++unsaid == kProgressEvery) {
      progress(PageCount{unsaid});
      unsaid = 0;
    }
    return status.has_value();
  });
  progress(PageCount{unsaid});
  if (!walked) return walked;
  if (!status) return status;
  alone.vm.left_out = source.left_out();
  vms_.push_back(std::move(alone.vm));
  return {};
}

Status Census::look_at(Alone& alone, PageIndex place, const PageCopy& page) {
  VmCensus& vm = alone.vm;
  ++vm.touched.value;
  if (is_zero(page)) {
    ++vm.zero.value;
    return {};
  }
  const store::Sketch sketch = sketch_(page);
  const std::uint64_t hash = hash_(page.bytes.data());
  const std::uint64_t cluster = sketch.low.count != 0     ? sketch.low.hashes[0]
                                : sketch.bytes.count != 0 ? sketch.bytes.hashes[0]
                                                          : hash;
  std::uint32_t copies = 1;  // this page, and the copies before it that were left out
  if (cluster % one_of_ != 0 && !known_.contains(hash)) {
    copies = frequent_.count(hash);
    if (copies < Frequent::kOften) return {};
  }
  vm.sampled.value += copies;
  const auto [known, is_new] =
      known_.try_emplace(hash, static_cast<std::uint32_t>(distinct_.size()));
  const std::uint32_t index = known->second;
  const ContentId id{index + 1};
  if (is_new) {
    if (index + 1 >= References::kPagesMax) {
      return fail("more distinct pages than an estimate can hold: use a smaller --sample");
    }
    distinct_.push_back({.cluster = cluster,
                         .count = 0,
                         .kept = {0, codecs_.measure(page)},
                         .vm = alone.number,
                         .place = place});
    KeptAs& kept = distinct_.back().kept;
    kept.patch = references_->patch_size(id, page, sketch, kept.alone.smallest());
  }
  DistinctPage& distinct = distinct_[index];
  distinct.count += copies;
  const auto [held, is_first] =
      alone.held.try_emplace(index, static_cast<std::uint32_t>(vm.held.size()));
  if (is_first) {
    vm.held.push_back({index, 0, distinct.kept});
    if (alone.references != nullptr) {
      vm.held.back().kept.patch =
          alone.references->patch_size(id, page, sketch, distinct.kept.alone.smallest());
    }
  }
  vm.held[held->second].count += copies;
  return {};
}

}  // namespace ramfold::estimate
