// SPDX-License-Identifier: GPL-2.0-or-later
// Goes once through the RAM of VMs and keeps, for every distinct page, what it would take in each
// form. To bound time and memory it may keep only a sample: pages are chosen by the smallest hash
// of their blocks (their *cluster*), so that equal pages are all chosen or none, and pages that are
// alike mostly so. Pages of which there are very many copies are always kept, and stand only for
// themselves. Threads: one owner.
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

// How a distinct page would be kept when everything is allowed.
struct KeptAs {
  std::uint16_t patch = 0;  // bytes as a patch, 0: it is not one
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
  KeptAs kept;              // beside the pages of all VMs
  std::uint32_t vm = 0;     // where it was seen first
  PageIndex place;
};

// What one VM holds of a distinct page.
struct Held {
  std::uint32_t page = 0;   // index into Census::distinct()
  std::uint32_t count = 0;  // how many of its pages
  KeptAs kept;              // beside the pages of this VM alone
};

struct VmCensus {
  std::string name;
  PageCount size;
  PageCount touched;  // pages read
  PageCount zero;     // of these
  PageCount sampled;  // of those that are not zero, kept
  RamSource::LeftOut left_out;
  std::vector<Held> held;
};

class Census {
 public:
  // Of so many clusters one is in the sample; 1: everything is.
  explicit Census(std::uint32_t one_of);
  ~Census();

  // Reads all of `source`, which must live as long as the census. `progress` gets the number of
  // pages read since it was last called.
  using Progress = std::function<void(PageCount)>;
  Status add(std::string name, RamSource& source, const Progress& progress);

  std::uint32_t one_of() const noexcept { return one_of_; }
  const std::vector<DistinctPage>& distinct() const noexcept { return distinct_; }
  // It was kept for its many copies, or would have been: it stands only for itself.
  static bool is_frequent(const DistinctPage& page) noexcept {
    return page.count >= Frequent::kOften;
  }
  const std::vector<VmCensus>& vms() const noexcept { return vms_; }

 private:
  struct Alone;  // what is known of the VM being read
  Status look_at(Alone& vm, PageIndex place, const PageCopy& page);
  bool read(ContentId id, PageCopy& into);

  const std::uint32_t one_of_;
  const store::PageHasher hash_;
  const store::Sketcher sketch_;
  Codecs codecs_;
  std::unique_ptr<References> references_;
  Frequent frequent_;
  std::unordered_map<std::uint64_t, std::uint32_t> known_;  // hash of a page, its index
  std::vector<DistinctPage> distinct_;
  std::vector<VmCensus> vms_;
  std::vector<RamSource*> sources_;
};

}  // namespace ramfold::estimate
