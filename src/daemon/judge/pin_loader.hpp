// SPDX-License-Identifier: GPL-2.0-or-later
// Loads the programs that ask the kernel who holds a page (sys/pin_test.hpp) and who holds a
// private copy (sys/private_pins.hpp), on a thread of its own: it takes tens of milliseconds, in
// which guests may wait for faults. Only that thread has the capabilities for it. It gives them up
// when it has loaded the programs, or could not.
// Threads: begin() on the first thread, before any other begins; loaded() from one thread.
#pragma once

#include <memory>
#include <optional>

#include "sys/pin_test.hpp"
#include "sys/private_pins.hpp"
#include "sys/procfs.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class PinLoader {
 public:
  // Begins to load. When this returns the calling thread has given the capabilities up, and so has
  // every thread that it starts afterwards. If no thread can be started, the caller loads.
  static std::unique_ptr<PinLoader> begin();

  // Waits until it is loaded, or refused.
  const sys::LoadedPinTest& loaded();
  const sys::LoadedPrivatePins& private_pins();

 private:
  void load();

  std::optional<sys::LoadedPinTest> loaded_;
  std::optional<sys::LoadedPrivatePins> private_pins_;
  sys::Thread thread_;  // the last member: it is joined before the others end
};

}  // namespace ramfold::daemon
