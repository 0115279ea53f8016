// SPDX-License-Identifier: GPL-2.0-or-later
// What `detach` and `off` announce: memory and time that bringing a VM back takes.
#include "daemon/bring_back/room.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "daemon/work/read_cost.hpp"
#include "store/contents.hpp"
#include "unit/bare_vm.hpp"
#include "unit/sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using store::Form;

namespace {

constexpr std::uint64_t kFolded = 1'000'000;
constexpr double kLz4Ns = 1'000, kZstdNs = 9'000, kPatchNs = 2'000, kMixNs = 200'000;

std::size_t of(Form form) { return static_cast<std::size_t>(form); }

// A host with memory for all, and groups whose pages are stored in given forms.
struct Host {
  test::FakeTree tree;
  sys::Procfs procfs{tree.root()};
  policy::Current config{policy::Config{}};
  std::unique_ptr<store::Contents> contents =
      std::move(*store::Contents::create(ByteCount{1u << 20}));
  std::map<std::uint32_t, std::array<store::FormStats, store::kForms>> forms;
  store::CostModel::ByForm<double> decode_ns{};
  Room room{procfs, config,
            [this](GroupId group) { return mean_read_ns(forms[group.value], decode_ns); }};

  Host() {
    tree.write("proc/meminfo", "MemTotal: 99000000 kB\nMemAvailable: 90000000 kB\n");
    decode_ns[of(Form::lz4)] = kLz4Ns;
    decode_ns[of(Form::zstd)] = kZstdNs;
    decode_ns[of(Form::patch)] = kPatchNs;
    decode_ns[of(Form::mix)] = kMixNs;
  }
  // A VM, alone in its group, with so many pages in each of these forms.
  VmHandle vm(const char* group, std::map<Form, std::uint64_t> pages, std::uint32_t id = 1) {
    auto made = test::bare_vm(PageCount{4096}, id, 0, static_cast<pid_t>(id));
    made->group = std::move(*contents->group(group));
    for (const auto& [form, count] : pages) {
      forms[made->group.id().value][of(form)].references = count;
      made->vm->counters().folded_content.add(count);
    }
    return made;
  }
  control::UnfoldPlan plan(const VmHandle& vm) {
    const auto planned = room.plan({&vm, 1}, policy::Reserve::left_alone);
    REQUIRE(planned.has_value());
    return *planned;
  }
};

}  // namespace

TEST_CASE("the time to bring a VM back goes by the forms of its pages") {
  Host host;
  const auto plain = host.vm("plain", {{Form::lz4, kFolded}});
  const auto zstd = host.vm("zstd", {{Form::zstd, kFolded}});
  const auto dense = host.vm("dense", {{Form::mix, kFolded}});
  const auto half = host.vm("half", {{Form::lz4, kFolded / 2}, {Form::mix, kFolded / 2}});
  const auto patched = host.vm("patched", {{Form::mix, kFolded / 2}, {Form::patch, kFolded / 2}});
  const double plain_s = host.plan(plain).seconds;
  const auto longer_by_ns = [&](const VmHandle& vm) {
    return (host.plan(vm).seconds - plain_s) * 1e9 / static_cast<double>(kFolded);
  };
  CHECK(plain_s * 1e9 / static_cast<double>(kFolded) >
        kLz4Ns);  // to install a page takes time, too
  CHECK(longer_by_ns(zstd) == Approx(kZstdNs - kLz4Ns));
  CHECK(longer_by_ns(dense) == Approx(kMixNs - kLz4Ns));
  CHECK(longer_by_ns(half) == Approx((kMixNs - kLz4Ns) / 2));
  // A patch is read with its reference.
  CHECK(longer_by_ns(patched) == Approx(kMixNs + kPatchNs / 2 - kLz4Ns));
  for (const auto& vm : {plain, zstd, dense, half, patched}) {
    CHECK(host.plan(vm).pages.value == kFolded);
    CHECK(host.plan(vm).needed.value == kFolded * kPageSize);
  }
}

TEST_CASE("pages of zeros take neither memory nor time before they are touched") {
  Host host;
  const auto zeros = host.vm("zeros", {});
  zeros->vm->counters().folded_zero.add(kFolded);
  CHECK(host.plan(zeros).pages.value == 0);
  CHECK(host.plan(zeros).needed.value == 0);
  CHECK(host.plan(zeros).seconds == 0);
  // Beside dense pages they change nothing.
  const auto dense = host.vm("dense", {{Form::mix, kFolded}});
  const double before = host.plan(dense).seconds;
  dense->vm->counters().folded_zero.add(kFolded);
  CHECK(host.plan(dense).seconds == before);
}

TEST_CASE("VMs that share a limited memory cgroup need room in it together") {
  Host host;
  constexpr std::uint64_t kPages = 1000;
  constexpr std::uint64_t kNeeds = kPages * kPageSize;
  host.tree.write("proc/self/mountinfo", "41 31 0:38 / /cg rw,relatime - cgroup2 cgroup2 rw\n");
  host.tree.write("proc/1/cgroup", "0::/slice/web\n");
  host.tree.write("proc/2/cgroup", "0::/slice/db\n");
  host.tree.write("proc/3/cgroup", "0::/alone\n");
  const auto limit = [&](const std::string& cgroup, std::uint64_t most) {
    host.tree.write("cg/" + cgroup + "/memory.max", std::to_string(most) + "\n");
    host.tree.write("cg/" + cgroup + "/memory.current", "0\n");
  };
  const std::vector<VmHandle> vms{host.vm("a", {{Form::lz4, kPages}}, 1),
                                  host.vm("b", {{Form::lz4, kPages}}, 2),
                                  host.vm("c", {{Form::lz4, kPages}}, 3)};
  const auto plan = [&](std::span<const VmHandle> of) {
    return host.room.plan(of, policy::Reserve::left_alone);
  };
  REQUIRE(plan(vms));
  CHECK(plan(vms)->needed.value == 3 * kNeeds);
  CHECK(plan(vms)->pages.value == 3 * kPages);
  CHECK(plan({})->needed.value == 0);

  limit("slice", 2 * kNeeds);
  CHECK(plan(vms));
  limit("slice", 2 * kNeeds - 1);
  for (std::size_t i = 0; i < vms.size(); ++i) CHECK(plan({&vms[i], 1}));
  CHECK(plan(std::span(vms).last(2)));
  const auto together = plan(vms);
  REQUIRE_FALSE(together);
  CHECK(together.error().failure == control::Failure::refused);
  CHECK(together.error().missing.value == 1);
  CHECK(together.error().text.find("/cg/slice has not enough room") != std::string::npos);
  CHECK(together.error().text.find("its 2 VMs") != std::string::npos);
  CHECK(host.room.lacking(vms, policy::Reserve::left_alone) == together.error());

  // A limit of one VM's own is told as that VM's.
  limit("slice", 2 * kNeeds);
  limit("slice/db", kNeeds - 5);
  const auto own = plan(vms);
  REQUIRE_FALSE(own);
  CHECK(own.error().text.find("(id 2)") != std::string::npos);
  CHECK(own.error().missing.value == 5);

  // A VM that needs nothing does not share.
  vms[1]->vm->counters().folded_content.sub(kPages);
  limit("slice", kNeeds);
  CHECK(plan(vms));
}
