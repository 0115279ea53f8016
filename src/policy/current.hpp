// SPDX-License-Identifier: GPL-2.0-or-later
// The configuration that is in force, replaced as a whole while others read it. A reader takes it
// anew for each piece of work, and keeps none for longer. Workers that read often have plain values
// instead (targets.hpp, base/published.hpp).
// Threads: any.
#pragma once

#include <memory>
#include <utility>

#include "base/thread_annotations.hpp"
#include "policy/config.hpp"

namespace ramfold::policy {

class Current {
 public:
  explicit Current(Config config) : config_(std::make_shared<const Config>(std::move(config))) {}
  std::shared_ptr<const Config> get() const EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return config_;
  }
  void set(Config config) EXCLUDES(mutex_) {
    auto next = std::make_shared<const Config>(std::move(config));
    const MutexLock lock(mutex_);
    config_.swap(next);  // the old one ends after the lock, if nobody reads it
  }

 private:
  mutable Mutex mutex_{"policy::Current"};
  std::shared_ptr<const Config> config_ GUARDED_BY(mutex_);
};

}  // namespace ramfold::policy
