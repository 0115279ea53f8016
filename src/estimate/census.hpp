// SPDX-License-Identifier: GPL-2.0-or-later
// Reads the RAM of VMs once and notes, for every distinct page, how many bytes it would take in
// each form. To bound time and memory, a census may look at a sample only. It chooses pages by
// their *cluster*: the smallest hash of the page's sketch (store/similarity). So equal pages are
// all in the sample or none is, and similar pages mostly go together, too. A page with very many
// copies is always looked at; it is frequent, and stands only for itself.
// Threads: one owner.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.hpp"
#include "base/types.hpp"
#include "estimate/codecs.hpp"
#include "estimate/frequent.hpp"
#include "estimate/ram_source.hpp"
#include "estimate/references.hpp"
#include "store/hash.hpp"
#include "store/similarity/sketch.hpp"

namespace ramfold::estimate {

// How many bytes a distinct page would take when every mechanism is on.
struct KeptAs {
  std::uint16_t patch = 0;  // bytes as a patch; 0: it has no useful patch
  PageSizes alone{};

  std::uint16_t bytes_with_patches() const noexcept {
    return patch != 0 ? patch : static_cast<std::uint16_t>(kPageSize);
  }
  std::uint16_t bytes() const noexcept { return patch != 0 ? patch : alone.smallest(); }
};

// A distinct page of the sample.
struct DistinctPage {
  std::uint64_t cluster = 0;
  std::uint64_t count = 0;  // how many pages hold it, in all VMs
  KeptAs kept;              // when the pages of all VMs may be references
  std::uint32_t vm = 0;     // number of the VM, and page, where it was seen first
  PageIndex place;
};

// The copies of one distinct page in one VM.
struct Held {
  std::uint32_t page = 0;   // index into Census::distinct()
  std::uint32_t count = 0;  // how many pages of the VM hold it
  KeptAs kept;              // when only the pages of this VM may be references
};

struct VmCensus {
  std::string name;
  PageCount size;
  PageCount touched;  // pages read
  PageCount zero;     // of `touched`: all bytes are zero
  PageCount sampled;  // of `touched`: not zero, and in the sample
  RamSource::LeftOut left_out;
  std::vector<Held> held;
};

class Census {
 public:
  // One of `one_of` clusters is in the sample; 1: all pages are.
  explicit Census(std::uint32_t one_of);
  ~Census();

  // Reads all pages of `source`, which must live as long as the census. `progress` gets the number
  // of pages that were read since its previous call.
  using Progress = std::function<void(PageCount)>;
  Status add(std::string name, RamSource& source, const Progress& progress);

  std::uint32_t one_of() const noexcept { return one_of_; }
  const std::vector<DistinctPage>& distinct() const noexcept { return distinct_; }
  // The page has so many copies that it would be looked at outside the sample, too. It stands only
  // for itself.
  static bool is_frequent(const DistinctPage& page) noexcept {
    return page.count >= Frequent::kOften;
  }
  const std::vector<VmCensus>& vms() const noexcept { return vms_; }

 private:
  struct Alone;  // the state of the VM that is being read
  Status look_at(Alone& vm, PageIndex place, const PageCopy& page);
  bool read(ContentId id, PageCopy& into);

  const std::uint32_t one_of_;
  const store::PageHasher hash_;
  const store::Sketcher sketch_;
  Codecs codecs_;
  std::unique_ptr<References> references_;
  Frequent frequent_;
  std::unordered_map<std::uint64_t, std::uint32_t> known_;  // hash of a page -> its index
  std::vector<DistinctPage> distinct_;
  std::vector<VmCensus> vms_;
  std::vector<RamSource*> sources_;
};

}  // namespace ramfold::estimate
