// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/protocol.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "control/view_json.hpp"

namespace ramfold::control {
namespace {

using Json = nlohmann::json;

enum class Vm : std::uint8_t { none, optional, required };
struct OperationInfo {
  Operation operation;
  std::string_view name;
  Vm vm;
  bool may_plan;
};
constexpr std::array kOperations{
    OperationInfo{Operation::snapshot, "snapshot", Vm::none, false},
    OperationInfo{Operation::show, "show", Vm::required, false},
    OperationInfo{Operation::attach, "attach", Vm::required, false},
    OperationInfo{Operation::detach, "detach", Vm::required, true},
    OperationInfo{Operation::off, "off", Vm::none, true},
    OperationInfo{Operation::pause, "pause", Vm::optional, false},
    OperationInfo{Operation::resume, "resume", Vm::optional, false},
    OperationInfo{Operation::policy_get, "policy-get", Vm::optional, false},
    OperationInfo{Operation::policy_set, "policy-set", Vm::optional, false},
};

std::unexpected<OperationError> bad(std::string text) {
  return refuse(Failure::bad_request, std::move(text),
                "see docs/control-protocol.md; the ramfold command and the daemon must be of the "
                "same release");
}

Answer<OperationInfo> operation_of(const Json& json) {
  const auto found = json.find("op");
  const auto* name = found == json.end() ? nullptr : found->get_ptr<const std::string*>();
  if (name == nullptr) return bad("'op' is missing or not a string");
  for (const OperationInfo& info : kOperations) {
    if (info.name == *name) return info;
  }
  return bad("no such operation");
}

Answer<VmsSelector> selector_of(const Json& json, Vm wanted) {
  const auto found = json.find("vm");
  if (found == json.end()) {
    if (wanted == Vm::required) return bad("'vm' is missing");
    return VmsSelector{};
  }
  if (wanted == Vm::none) return bad("this operation takes no 'vm'");
  const auto* text = found->get_ptr<const std::string*>();
  if (text == nullptr || text->empty() || text->size() > kSelectorBytesMax) {
    return bad(fmt::format("'vm' must be a string of 1 to {} bytes", kSelectorBytesMax));
  }
  return VmsSelector{VmSelector{*text}};
}

Answer<void> read_assignments(const Json& json, Request& request) {
  const auto found = json.find("assignments");
  const bool wanted = request.operation == Operation::policy_set;
  if (found == json.end() && !wanted) return {};
  if (!wanted) return bad("'assignments' does not belong here");
  if (found == json.end() || !found->is_array() || found->empty() ||
      found->size() > kAssignmentsMax) {
    return bad(fmt::format("'assignments' must be 1 to {} strings", kAssignmentsMax));
  }
  for (const Json& item : *found) {
    const auto* text = item.get_ptr<const std::string*>();
    if (text == nullptr) return bad("an element of 'assignments' is not a string");
    request.assignments.push_back(*text);
  }
  return {};
}

Answer<Request> request_of(const Json& json, std::uint64_t id) {
  const auto version = json.find("ramfold");
  if (version == json.end() || !version->is_number_integer() || *version != kProtocolVersion) {
    return bad(fmt::format("this daemon speaks version {} of the protocol", kProtocolVersion));
  }
  for (const auto& [key, value] : json.items()) {
    static constexpr std::array<std::string_view, 7> kKnown{
        "ramfold", "id", "op", "vm", "plan_only", "incoming_finished", "assignments"};
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end()) return bad("unknown field");
  }
  const auto info = operation_of(json);
  if (!info) return std::unexpected(info.error());
  auto vm = selector_of(json, info->vm);
  if (!vm) return std::unexpected(std::move(vm.error()));
  Request request{id, info->operation, std::move(*vm)};
  if (const auto plan = json.find("plan_only"); plan != json.end()) {
    if (!plan->is_boolean() || !info->may_plan) return bad("'plan_only' does not belong here");
    request.plan_only = plan->get<bool>();
  }
  if (const auto incoming = json.find("incoming_finished"); incoming != json.end()) {
    if (!incoming->is_boolean() || info->operation != Operation::attach) {
      return bad("'incoming_finished' does not belong here");
    }
    request.incoming_finished = incoming->get<bool>();
  }
  if (Answer<void> read = read_assignments(json, request); !read) {
    return std::unexpected(std::move(read.error()));
  }
  return request;
}

std::string line_of(std::uint64_t id, const char* name, Json body) {
  Json line = Json::object();
  line["ramfold"] = kProtocolVersion;
  line["id"] = id;
  line[name] = std::move(body);
  return text_of(line, -1) + "\n";
}

template <typename View>
Status read_body(const Json& json, const char* name, Reply& reply, bool last) {
  View view;
  if (const Status status = from_json(json.at(name), view); !status) return status;
  reply.body = std::move(view);
  reply.last = last;
  return {};
}

Status body_of(const Json& json, Reply& reply) {
  if (json.contains("snapshot")) return read_body<Snapshot>(json, "snapshot", reply, true);
  if (json.contains("vm")) return read_body<VmView>(json, "vm", reply, true);
  if (json.contains("policy")) return read_body<PolicyView>(json, "policy", reply, true);
  if (json.contains("plan")) return read_body<UnfoldPlan>(json, "plan", reply, false);
  if (json.contains("progress")) return read_body<UnfoldProgress>(json, "progress", reply, false);
  if (json.contains("error")) return read_body<OperationError>(json, "error", reply, true);
  if (json.contains("done")) return {};
  return fail("a reply without a body that this version understands");
}

}  // namespace

ParsedRequest parse_request(std::string_view line) {
  if (line.size() > kRequestBytesMax) {
    return {0, bad(fmt::format("a request has at most {} bytes", kRequestBytesMax))};
  }
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return {0, bad("a request is one JSON object on one line")};
  std::uint64_t id = 0;
  if (const auto found = json.find("id"); found != json.end()) {
    const auto* number = found->get_ptr<const std::uint64_t*>();
    if (number == nullptr) return {0, bad("'id' must be a whole number of at least 0")};
    id = *number;
  }
  return {id, request_of(json, id)};
}

std::string encode(const Request& request) {
  Json line = Json::object();
  line["ramfold"] = kProtocolVersion;
  line["id"] = request.id;
  for (const OperationInfo& info : kOperations) {
    if (info.operation == request.operation) line["op"] = std::string(info.name);
  }
  if (request.vm) line["vm"] = request.vm->text;
  if (request.plan_only) line["plan_only"] = true;
  if (request.incoming_finished) line["incoming_finished"] = true;
  if (!request.assignments.empty()) line["assignments"] = request.assignments;
  return text_of(line, -1) + "\n";
}

std::string encode_reply(std::uint64_t id, const Snapshot& snapshot) {
  return line_of(id, "snapshot", to_json(snapshot));
}
std::string encode_reply(std::uint64_t id, const VmView& vm) {
  return line_of(id, "vm", to_json(vm));
}
std::string encode_reply(std::uint64_t id, const PolicyView& policy) {
  return line_of(id, "policy", to_json(policy));
}
std::string encode_reply(std::uint64_t id, const UnfoldPlan& plan) {
  return line_of(id, "plan", to_json(plan));
}
std::string encode_reply(std::uint64_t id, const UnfoldProgress& progress) {
  return line_of(id, "progress", to_json(progress));
}
std::string encode_reply(std::uint64_t id, const OperationError& error) {
  return line_of(id, "error", to_json(error));
}
std::string encode_done(std::uint64_t id) { return line_of(id, "done", true); }

Result<Reply> parse_reply(std::string_view line) {
  if (line.size() > kReplyBytesMax) return fail("the daemon's reply is too long");
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return fail("the daemon's reply is not JSON: is it ramfoldd?");
  const auto version = json.find("ramfold");
  if (version == json.end() || *version != kProtocolVersion) {
    return fail("the daemon speaks another version of the protocol: restart it after an upgrade");
  }
  Reply reply;
  if (const auto id = json.find("id"); id != json.end() && id->is_number_unsigned()) {
    reply.id = id->get<std::uint64_t>();
  }
  if (const Status status = body_of(json, reply); !status) return std::unexpected(status.error());
  return reply;
}

}  // namespace ramfold::control
