// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/report/select_vm.hpp"

#include <array>
#include <catch2/catch.hpp>

using namespace ramfold;
using control::Failure;
using daemon::select_vm;
using daemon::VmLabel;

namespace {

const std::array kVms{
    VmLabel{VmId{1}, 4001, "web", "8d1b"},
    VmLabel{VmId{2}, 4002, "db", ""},
    VmLabel{VmId{4001}, 4003, "web", "9e2c"},  // its id is another's pid
    VmLabel{{}, 4004, "db-2", ""},
    VmLabel{{}, 4005, "7", ""},
};

}  // namespace

TEST_CASE("a VM is named by its id, pid, name or uuid, in that order") {
  CHECK(select_vm(kVms, "2").value() == 1);
  CHECK(select_vm(kVms, "4001").value() == 2);
  CHECK(select_vm(kVms, "4003").value() == 2);
  CHECK(select_vm(kVms, "4004").value() == 3);
  CHECK(select_vm(kVms, "db").value() == 1);
  CHECK(select_vm(kVms, "7").value() == 4);
  CHECK(select_vm(kVms, "9e2c").value() == 2);
}

TEST_CASE("a name of two VMs says so, and how to name one of them") {
  const auto chosen = select_vm(kVms, "web");
  REQUIRE_FALSE(chosen);
  CHECK(chosen.error().failure == Failure::conflict);
  CHECK(chosen.error().text == "2 VMs are called 'web': pids 4001, 4003");
  CHECK(chosen.error().remedy.find("4001") != std::string::npos);
}

TEST_CASE("also where one of the two, or both, are not attached") {
  const std::array one{VmLabel{VmId{1}, 4001, "web", ""}, VmLabel{{}, 4002, "web", ""}};
  CHECK(select_vm(one, "web").error().failure == Failure::conflict);
  const std::array none{VmLabel{{}, 4001, "web", ""}, VmLabel{{}, 4002, "web", ""}};
  CHECK(select_vm(none, "web").error().failure == Failure::conflict);
  CHECK(select_vm(none, "4002").value() == 1);
}

TEST_CASE("no such VM; an empty text is nobody's uuid") {
  CHECK(select_vm(kVms, "none").error().failure == Failure::not_found);
  CHECK(select_vm(kVms, "").error().failure == Failure::not_found);
  CHECK(select_vm({}, "1").error().failure == Failure::not_found);
  CHECK(select_vm(kVms, "99999999999").error().failure == Failure::not_found);
}
