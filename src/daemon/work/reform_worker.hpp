// SPDX-License-Identifier: GPL-2.0-or-later
// The thread that gives stored contents cheaper forms, within the CPU budget of reform.cpu.
// With reform.policy = "off" the thread waits.
// Threads: begin() from one thread at a time, stop() after the last begin(); the rest from any.
#pragma once

#include <atomic>
#include <memory>

#include "base/published.hpp"
#include "base/thread_cpu.hpp"
#include "daemon/fleet/host_state.hpp"
#include "daemon/threads/nap.hpp"
#include "policy/config.hpp"
#include "store/reform/reformer.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

class ReformWorker {
 public:
  // Errors: ENOMEM. REQUIRES: `contents` and `host` outlive this.
  static Result<std::unique_ptr<ReformWorker>> make(store::Contents& contents, HostState& host,
                                                    const policy::ReformConfig& config);
  ~ReformWorker() { stop(); }
  ReformWorker(const ReformWorker&) = delete;
  ReformWorker& operator=(const ReformWorker&) = delete;

  // Starts the thread unless it runs already.
  Status begin();
  void stop() noexcept;
  // Holds from the next contents on.
  void set(const policy::ReformConfig& config) noexcept { config_.store(config); }
  std::uint64_t cpu_ns() const noexcept { return cpu_.ns(); }
  store::ReformFigures figures() const noexcept { return reformer_->figures(); }

 private:
  ReformWorker(std::unique_ptr<store::Reformer> reformer, HostState& host,
               const policy::ReformConfig& config);
  void run() noexcept;

  std::unique_ptr<store::Reformer> reformer_;
  const HostState& host_;
  Published<policy::ReformConfig> config_;
  ThreadCpu cpu_;
  StopFlag stopping_;
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
