// SPDX-License-Identifier: GPL-2.0-or-later
// What is under way at one VM to map the pool over its pages, and to put pages back
// (work/mapping_worker.hpp).
// Threads: any.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>

#include "base/thread_annotations.hpp"
#include "fold/mapper.hpp"

namespace ramfold::daemon {

// Pages that may map the pool, if they equal something. Scan workers find them; a window that finds
// no place is found again in the next pass.
struct MapWindow {
  PageRun pages;  // at most fold::kAgentRunPages, within one block
  guest::PageMask wanted = 0;
};
class MapQueue {
 public:
  static constexpr std::size_t kMax = 4096;  // windows: 256 MiB of RAM

  // The pages of a window of the scan, in parts that one command can map.
  void put_parts(PageRun pages, guest::PageMask wanted) {
    constexpr std::uint64_t kPart = fold::kAgentRunPages.value;
    for (std::uint64_t first = 0; first < pages.count.value && wanted != 0; first += kPart) {
      const PageCount count{std::min(kPart, pages.count.value - first)};
      const guest::PageMask part = wanted & guest::all_pages(count);
      if (part != 0) put({{PageIndex{pages.first.value + first}, count}, part});
      wanted >>= kPart;
    }
  }
  void put(const MapWindow& window) {
    const MutexLock lock(mutex_);
    if (windows_.size() < kMax) windows_.push_back(window);
  }
  std::optional<MapWindow> take() {
    const MutexLock lock(mutex_);
    if (windows_.empty()) return std::nullopt;
    const MapWindow first = windows_.front();
    windows_.pop_front();
    return first;
  }
  bool empty() const {
    const MutexLock lock(mutex_);
    return windows_.empty();
  }
  void clear() {
    const MutexLock lock(mutex_);
    windows_.clear();
  }

 private:
  mutable Mutex mutex_{"MapQueue"};
  std::deque<MapWindow> windows_ GUARDED_BY(mutex_);
};

// Why nothing of a VM is mapped anew.
enum class MapsNot : std::uint8_t {
  maps,
  no_proof,  // the kernel cannot be asked who holds a private copy
  no_agent,  // it does not answer
  no_room,   // its process has nearly as many mappings as it may have
};

struct MappingState {
  MapQueue found;
  std::atomic<bool> wanted{false};     // pages may be mapped now: scan workers look for some
  std::atomic<bool> under_way{false};  // a turn of the mapping worker runs
  std::atomic<MapsNot> not_now{MapsNot::maps};
  std::atomic<std::uint64_t> ranges{0};  // mappings of the VM's process when it was asked last

  // A turn holds it while the VM's agent works.
  Mutex mutex{"MappingState"};
  std::optional<fold::Mapper> mapper GUARDED_BY(mutex);
  std::atomic<bool> unsettled{false};  // answers of the agent have not come
  // The pass of the scan (guest::Vm::pass_now()) in which written pages were put back last.
  std::atomic<unsigned> swept_pass{0};
};

}  // namespace ramfold::daemon
