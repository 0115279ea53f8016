// SPDX-License-Identifier: GPL-2.0-or-later
// What a VM's agent can be asked to do to its RAM (agent/wire.h, commands). A port belongs to one
// connection: it is open from the agent's answer to the fence until the connection ends, and then
// for ever closed. Nothing that was sent through it runs once the next port of this VM is open.
//
// An answer is the agent's word, and the agent may lie. Ask the kernel about the mappings before a
// decision that data depends on.
// Threads: any.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "agent/wire.h"
#include "base/types.hpp"

namespace ramfold::guest {

enum class AgentAct : std::uint32_t {
  // Page table entries of QEMU's go; pages and guards stay. A page that is present again afterwards
  // was touched.
  forget = RF_ACT_FORGET,
  // The pool is mapped over the pages, which are then punched out of the RAM file.
  map = RF_ACT_MAP,
  // Pages that map the pool go into the RAM file, which is then mapped in their place.
  restore = RF_ACT_RESTORE,
};

enum class AgentAnswer : std::uint8_t {
  done,
  refused,  // nothing was done
  failed,   // some of it may have been done
  lost,     // the connection ended first: the command may have run, or may run until the next fence
};

enum class NotSent : std::uint8_t {
  closed,  // for good
  full,    // kUnderWayMax commands are under way: take() an answer first, or try later
};

// A command that was sent. take() or give_up() it: until then it holds a place.
struct AgentToken {
  std::uint32_t value = 0;
};

class AgentPort {
 public:
  static constexpr std::size_t kRunsMax = RF_RUNS_MAX;
  static constexpr PageCount kPagesMax{RF_COMMAND_BYTES_MAX / kPageSize};  // of all runs together
  static constexpr std::size_t kUnderWayMax = RF_COMMANDS_UNDER_WAY_MAX;

  virtual ~AgentPort() = default;
  // It can be sent through.
  virtual bool is_open() = 0;
  // Never waits. REQUIRES: at most kRunsMax runs, none empty, of kPagesMax pages together, each
  // within one RAM block. To map: for each run, where it begins in the pool; else nothing.
  virtual std::expected<AgentToken, NotSent> send(AgentAct act, std::span<const PageRun> runs,
                                                  std::span<const ByteCount> in_pool) = 0;
  std::expected<AgentToken, NotSent> send(AgentAct act, std::span<const PageRun> runs) {
    return send(act, runs, {});
  }
  // The answer; it can be taken once. Waits for it at most `wait`. Nothing: it has not come.
  virtual std::optional<AgentAnswer> take(AgentToken token,
                                          std::chrono::milliseconds wait = {}) = 0;
  // The caller will not take this answer.
  virtual void give_up(AgentToken token) = 0;
};

}  // namespace ramfold::guest
