// SPDX-License-Identifier: GPL-2.0-or-later
// Lines of the control protocol, version 1: docs/control-protocol.md. Both sides of the socket and
// the fuzzer use these; nothing here does input or output.
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.hpp"
#include "control/service.hpp"
#include "control/views.hpp"

namespace ramfold::control {

inline constexpr int kProtocolVersion = 1;
// A request names an operation and a VM: more is a mistake or an attack.
inline constexpr std::size_t kRequestBytesMax = 4096;
inline constexpr std::size_t kSelectorBytesMax = 256;
// A snapshot of some thousand VMs.
inline constexpr std::size_t kReplyBytesMax = 64u << 20;

// Assignments of one policy_set.
inline constexpr std::size_t kAssignmentsMax = 64;

enum class Operation : std::uint8_t {
  snapshot,
  show,
  attach,
  detach,
  off,
  pause,
  resume,
  policy_get,
  policy_set
};

struct Request {
  std::uint64_t id = 0;  // echoed in every reply
  Operation operation = Operation::snapshot;
  // REQUIRED by show, attach, detach; optional for pause, resume, policy_get, policy_set.
  VmsSelector vm;
  bool plan_only = false;          // detach, off: tell the plan, do nothing
  bool incoming_finished = false;  // attach: the migration that QEMU was started for has ended
  std::vector<std::string> assignments{};  // policy_set: KEY=VALUE or KEY=
  friend bool operator==(const Request&, const Request&) = default;
};

// Parses one line, without its newline. The id is there also when the request is not valid, if it
// could be read: the reply with the error carries it.
struct ParsedRequest {
  std::uint64_t id = 0;
  Answer<Request> request;
};
ParsedRequest parse_request(std::string_view line);

// Each ends with a newline.
std::string encode(const Request& request);
std::string encode_reply(std::uint64_t id, const Snapshot& snapshot);
std::string encode_reply(std::uint64_t id, const VmView& vm);
std::string encode_reply(std::uint64_t id, const PolicyView& policy);
std::string encode_reply(std::uint64_t id, const UnfoldPlan& plan);
std::string encode_reply(std::uint64_t id, const UnfoldProgress& progress);
std::string encode_reply(std::uint64_t id, const OperationError& error);
std::string encode_done(std::uint64_t id);

// The last line of an answer is `done`, a result or an error; plan and progress come before it.
struct Done {
  friend bool operator==(const Done&, const Done&) = default;
};
struct Reply {
  std::uint64_t id = 0;
  std::variant<Done, Snapshot, VmView, PolicyView, UnfoldPlan, UnfoldProgress, OperationError> body;
  bool last = true;
};
Result<Reply> parse_reply(std::string_view line);

}  // namespace ramfold::control
