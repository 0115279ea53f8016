// SPDX-License-Identifier: GPL-2.0-or-later
// What the daemon gives its keeper and takes back, in which order (src/daemon/custody/keeping).
#include "daemon/custody/keeping.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

#include "fake_manager.hpp"
#include "keeper_process.hpp"
#include "kernel/guest_process.hpp"
#include "store/contents.hpp"

using namespace ramfold;
using namespace ramfold::keeper::test;

TEST_CASE("a VM's record is the last that the keeper gets of it, and the first that goes") {
  // Killed in between, it leaves a VM without a record: one of which nothing is folded.
  const Directory dir;
  FakeManager manager(dir / "notify");
  const KeeperProcess keeper(dir / "k", manager.passes());
  const auto guest = test::GuestProcess::start(PageCount{4});
  guest::VmRecord said;
  guest::Vm::Files files = guest->files_for(7, said);
  files.record = std::move(*sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
  files.pidfd = pidfd_of(guest->pid());
  const auto vm = std::move(*guest::Vm::make(said, std::move(files)));
  const auto contents = store::Contents::create(ByteCount{1u << 20});
  REQUIRE(contents.has_value());
  daemon::Keeping keeping(keeper.socket());
  REQUIRE(eventually([&] { return keeping.connect().has_value(); }));
  REQUIRE(keeping.keep_vm(*vm, **contents));
  const std::string record = "k.vm.7.record";
  REQUIRE(eventually([&] {
    manager.read_all();
    return manager.stored.contains(record);
  }));
  const std::size_t of_vm = static_cast<std::size_t>(std::ranges::count_if(
      manager.stored, [](const auto& kept) { return kept.first.find(".vm.7.") == 1; }));
  REQUIRE(of_vm > 4);

  REQUIRE(keeping.drop_vm(vm->id()));
  REQUIRE(eventually([&] {
    manager.read_all();
    return manager.removed.size() == of_vm;
  }));
  CHECK(manager.removed.front() == record);
}
