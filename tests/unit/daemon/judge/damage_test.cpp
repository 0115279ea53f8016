// SPDX-License-Identifier: GPL-2.0-or-later
// References of a group that do not add up: folding stops for the VMs of that group, and for no
// other VM, and the log says so once a VM.
#include "daemon/judge/damage.hpp"

#include <catch2/catch.hpp>
#include <vector>

#include "base/page_copy.hpp"
#include "store/contents.hpp"
#include "unit/bare_vm.hpp"
#include "unit/logged.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using guest::Inconsistency;
using guest::ReasonCode;

namespace {

constexpr const char* kSaid = "the references of its group do not add up";

// The reference of the page's word.
ContentId stored(store::Contents& contents, GroupId group, unsigned char byte) {
  PageCopy copy;
  copy.bytes.fill(std::byte{byte});
  copy.bytes[0] = std::byte{1};
  auto put = contents.put(group, copy, contents.hash(group, copy));
  REQUIRE(put.has_value());
  return put->ref.release();
}

std::vector<ReasonCode> codes_of(const AttachedVm& vm) {
  std::vector<guest::Reason> reasons;
  add_damage(vm, reasons);
  std::vector<ReasonCode> codes;
  for (const guest::Reason& reason : reasons) codes.push_back(reason.code);
  return codes;
}

}  // namespace

TEST_CASE("a group whose references do not add up stops the VMs of this group, and no others") {
  auto made = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(made.has_value());
  store::Contents& contents = **made;
  std::vector<VmHandle> of_a;
  std::vector<VmHandle> of_b;
  for (std::uint32_t id = 1; id <= 4; ++id) {
    const bool a = id <= 2;
    VmHandle vm = test::bare_vm(PageCount{512}, id);
    auto group = contents.group(a ? "a" : "b");
    REQUIRE(group.has_value());
    vm->group = std::move(*group);
    REQUIRE(vm->vm->gate().open(0, vm->vm->gate().epoch()));
    (a ? of_a : of_b).push_back(vm);
  }
  const auto tend_all = [&] {
    for (const auto* group : {&of_a, &of_b}) {
      for (const VmHandle& vm : *group) tend_damage(*vm, contents);
    }
  };
  const ContentId once = stored(contents, of_a[0]->group, 3);
  (void)stored(contents, of_b[0]->group, 4);

  test::Logged before;
  tend_all();
  CHECK(before.end(kSaid) == 0);
  CHECK(codes_of(*of_a[0]).empty());

  REQUIRE(contents.drop(of_a[0]->group, once) == store::Booked::done);
  REQUIRE(contents.drop(of_a[0]->group, once) == store::Booked::refused);
  test::Logged log;
  tend_all();
  tend_all();
  CHECK(log.end(kSaid) == of_a.size());
  for (const VmHandle& vm : of_a) {
    CHECK(vm->vm->inconsistency() == Inconsistency::group);
    CHECK_FALSE(vm->vm->gate().is_open());
    CHECK_FALSE(vm->wants_folding());
    CHECK(codes_of(*vm) == std::vector{ReasonCode::inconsistent});
    // The next daemon counts the references anew.
    CHECK((vm->vm->record().flags & guest::kRecordInconsistent) == 0);
  }
  for (const VmHandle& vm : of_b) {
    CHECK(vm->vm->inconsistency() == Inconsistency::none);
    CHECK(vm->vm->gate().is_open());
    CHECK(codes_of(*vm).empty());
  }
}
