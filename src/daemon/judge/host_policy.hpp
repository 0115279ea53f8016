// SPDX-License-Identifier: GPL-2.0-or-later
// What holds for the whole host: may anything be folded now, and if not, why. Published by the
// housekeeping thread, read by the workers.
// Threads: flags are atomic, the reasons have a lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "control/views.hpp"

namespace ramfold::daemon {

struct HostPolicy {
  std::atomic<bool> may_fold{false};     // all of the below together
  std::atomic<bool> may_observe{false};  // scanning at all makes sense
  std::atomic<bool> may_reform{false};   // what is stored may be given other forms
  std::atomic<bool> paused{false};
  std::atomic<bool> off{false};
  std::atomic<bool> off_done{false};  // everything is back, and the keeper has let go of the store
  std::atomic<bool> recovering{true};
  // A put failed for lack of room: rest until then.
  std::atomic<std::uint64_t> store_full_until_ns{0};

  std::mutex mutex;
  std::vector<control::Reason> reasons;
  std::string not_recovered;  // why the store's recovery has to be tried again
  control::Promise promise;
  ByteCount keep_available;
  bool self_test_ok = false;
  std::vector<control::SelfTestView> self_test;
};

}  // namespace ramfold::daemon
