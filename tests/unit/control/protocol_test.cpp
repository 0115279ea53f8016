// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/protocol.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "control/names.hpp"
#include "control/view_json.hpp"
#include "fake_service.hpp"

using namespace ramfold;
using namespace ramfold::control;

namespace {

std::string without_newline(std::string line) {
  REQUIRE(line.ends_with('\n'));
  line.pop_back();
  REQUIRE(line.find('\n') == std::string::npos);
  return line;
}
Failure failure_of(std::string_view line) {
  const auto parsed = parse_request(line);
  REQUIRE_FALSE(parsed.request.has_value());
  return parsed.request.error().failure;
}

}  // namespace

TEST_CASE("requests survive the way through the socket") {
  const Request requests[] = {
      {1, Operation::snapshot, {}, false},
      {2, Operation::show, VmSelector{"web \"1\"\n"}, false},
      {3, Operation::attach, VmSelector{"4001"}, false},
      {3, Operation::attach, VmSelector{"4001"}, false, true},
      {4, Operation::detach, VmSelector{"web"}, true},
      {5, Operation::off, {}, true},
      {6, Operation::pause, {}, false},
      {~0ull, Operation::resume, VmSelector{"web"}, false},
      {7, Operation::policy_get, {}, false},
      {8, Operation::policy_get, VmSelector{"web"}, false},
      {9, Operation::policy_set, VmSelector{"web"}, false, false, {"lz4=false", "fold="}},
  };
  for (const Request& request : requests) {
    const auto parsed = parse_request(without_newline(encode(request)));
    REQUIRE(parsed.request.has_value());
    CHECK(*parsed.request == request);
  }
}

TEST_CASE("what is no request is answered as a bad one, with its id where it has one") {
  for (const char* line : {
           "",
           "{",
           "[]",
           "1",
           "null",
           "{}",
           "{\"ramfold\":1}",
           "{\"ramfold\":2,\"op\":\"off\"}",
           "{\"ramfold\":\"1\",\"op\":\"off\"}",
           "{\"ramfold\":1,\"op\":\"format\"}",
           "{\"ramfold\":1,\"op\":7}",
           "{\"ramfold\":1,\"op\":\"show\"}",
           "{\"ramfold\":1,\"op\":\"show\",\"vm\":\"\"}",
           "{\"ramfold\":1,\"op\":\"show\",\"vm\":3}",
           "{\"ramfold\":1,\"op\":\"off\",\"vm\":\"web\"}",
           "{\"ramfold\":1,\"op\":\"pause\",\"plan_only\":true}",
           "{\"ramfold\":1,\"op\":\"off\",\"plan_only\":1}",
           "{\"ramfold\":1,\"op\":\"off\",\"force\":true}",
           "{\"ramfold\":1,\"id\":-1,\"op\":\"off\"}",
           "{\"ramfold\":1,\"id\":\"x\",\"op\":\"off\"}",
           "{\"ramfold\":1,\"op\":\"detach\",\"vm\":\"web\",\"incoming_finished\":true}",
           "{\"ramfold\":1,\"op\":\"attach\",\"vm\":\"web\",\"incoming_finished\":1}",
           "{\"ramfold\":1,\"op\":\"policy-set\"}",
           "{\"ramfold\":1,\"op\":\"policy-set\",\"assignments\":[]}",
           "{\"ramfold\":1,\"op\":\"policy-set\",\"assignments\":[1]}",
           "{\"ramfold\":1,\"op\":\"policy-set\",\"assignments\":\"a=1\"}",
           "{\"ramfold\":1,\"op\":\"policy-get\",\"assignments\":[\"a=1\"]}",
           "\xff\xfe",
       }) {
    INFO(line);
    CHECK(failure_of(line) == Failure::bad_request);
  }
  CHECK(parse_request("{\"id\":9}").id == 9);
  CHECK(failure_of(std::string(kRequestBytesMax + 1, ' ')) == Failure::bad_request);
  CHECK(failure_of(std::string(kRequestBytesMax, '[')) == Failure::bad_request);
  CHECK(failure_of("{\"ramfold\":1,\"op\":\"show\",\"vm\":\"" +
                   std::string(kSelectorBytesMax + 1, 'x') + "\"}") == Failure::bad_request);
}

TEST_CASE("every view survives the way through the socket") {
  FakeService service;
  service.change([](Snapshot& s) {
    s.host.saved.net_bytes = -12;
    s.host.self_test.push_back({"punch", CheckOutcome::failed, "x", "y"});
    s.vms[0].pages.touched = PageCount{~0ull};
  });
  const Snapshot snapshot = service.snapshot();
  const auto whole = parse_reply(without_newline(encode_reply(7, snapshot)));
  REQUIRE(whole.has_value());
  CHECK(whole->id == 7);
  CHECK(whole->last);
  CHECK(std::get<Snapshot>(whole->body) == snapshot);
  const auto vm = parse_reply(without_newline(encode_reply(8, snapshot.vms[1])));
  CHECK(std::get<VmView>(vm.value().body) == snapshot.vms[1]);
  const PolicyView policy = service.policy(std::nullopt).value();
  const auto told = parse_reply(without_newline(encode_reply(8, policy)));
  CHECK(std::get<PolicyView>(told.value().body) == policy);
  CHECK(told.value().last);
  const UnfoldPlan plan{PageCount{3}, ByteCount{12288}, ByteCount{4096}, 0.5};
  const auto planned = parse_reply(without_newline(encode_reply(9, plan)));
  CHECK(std::get<UnfoldPlan>(planned.value().body) == plan);
  CHECK_FALSE(planned.value().last);
  const UnfoldProgress progress{PageCount{1}, PageCount{3}, 0.25};
  const auto moved = parse_reply(without_newline(encode_reply(9, progress)));
  CHECK(std::get<UnfoldProgress>(moved.value().body) == progress);
  CHECK_FALSE(moved.value().last);
  const OperationError error{Failure::refused, "too little", "free some", ByteCount{8192}};
  const auto failed = parse_reply(without_newline(encode_reply(9, error)));
  CHECK(std::get<OperationError>(failed.value().body) == error);
  CHECK(std::holds_alternative<Done>(parse_reply(without_newline(encode_done(9))).value().body));
}

TEST_CASE("names that are not UTF-8 do not end the reply") {
  VmView vm = fake_vm(1,
                      "we\xff"
                      "b",
                      VmState::idle);
  const auto reply = parse_reply(without_newline(encode_reply(1, vm)));
  REQUIRE(reply.has_value());
  CHECK(std::get<VmView>(reply->body).name ==
        "we\xEF\xBF\xBD"
        "b");
}

TEST_CASE("a later daemon's fields are skipped, another type is an error that names the field") {
  auto json = to_json(fake_vm(1, "web", VmState::idle));
  json["colour"] = "blue";
  json.erase("uid");
  VmView vm;
  REQUIRE(from_json(json, vm));
  CHECK(vm.uid == 0);
  json["pages"]["clean"] = "many";
  const auto status = from_json(json, vm);
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().what.find("vm.pages.clean") != std::string::npos);
  json["pages"]["clean"] = -1;
  CHECK_FALSE(from_json(json, vm).has_value());
  json["pages"]["clean"] = 1;
  json["state"] = "dancing";
  CHECK_FALSE(from_json(json, vm).has_value());
}

TEST_CASE("what people compute from the figures is written beside them") {
  FakeService service;
  const auto json = to_json(service.snapshot());
  CHECK(json["host"]["saved"]["folded_pages"] == 38000);
  CHECK(json["host"]["promise"]["kept"] == true);
  CHECK(json["host"]["spent"]["overhead_bytes"] == 14000000 - 12768000 + 320000);
}

TEST_CASE("every enumerator has a name of its own") {
  const auto check = [](const auto& names) {
    for (const auto& [value, name] : names) {
      CHECK(name_of(value) == name);
      CHECK(value_of<std::remove_cv_t<std::remove_reference_t<decltype(value)>>>(name) == value);
    }
  };
  check(kHostStates);
  check(kVmStates);
  check(kGateStates);
  check(kCheckOutcomes);
  check(kKeeperStates);
  check(kFailures);
}

TEST_CASE("a reply from something else is told apart") {
  for (const char* line : {"", "hello", "{}", "{\"ramfold\":2,\"done\":true}", "{\"ramfold\":1}",
                           "{\"ramfold\":1,\"vm\":[]}"}) {
    CHECK_FALSE(parse_reply(line).has_value());
  }
}
