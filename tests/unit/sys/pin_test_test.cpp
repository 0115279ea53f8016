// SPDX-License-Identifier: GPL-2.0-or-later
// Why the kernel gives no answers, and what the operator can do. What it answers is tested on a
// real kernel: tests/kernel/pins_test.cpp.
#include "sys/pin_test.hpp"

#include <catch2/catch.hpp>
#include <cerrno>

#include "sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::sys;
using Why = PinTestRefusal::Why;

namespace {

// A host on which nothing but a capability is missing.
struct Host {
  Host() {
    tree.write("proc/sys/kernel/osrelease", "6.12.1\n");
    tree.write("sys/kernel/btf/vmlinux", "types");
    tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
  }
  PinTestRefusal refuses(int code, std::string said = {}) const {
    return refusal_of(code, std::move(said), Procfs(tree.root()));
  }
  test::FakeTree tree;
};

}  // namespace

TEST_CASE("a refused program is explained by what the host lacks, and has a remedy") {
  const Host host;
  SECTION("capabilities, a system call filter or a security module") {
    for (const int code : {EPERM, EACCES, ENOSYS})
      CHECK(host.refuses(code).why == Why::not_permitted);
    CHECK(host.refuses(EPERM).text().ends_with(": Operation not permitted"));
    CHECK(host.refuses(EPERM).remedy().find("CAP_BPF") != std::string_view::npos);
  }
  SECTION("an old kernel, whatever else it lacks") {
    host.tree.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
    CHECK(host.refuses(EPERM).why == Why::kernel_too_old);
    CHECK(host.refuses(ESRCH).remedy() == "boot Linux 6.7 or newer");
  }
  SECTION("a kernel that is locked down refuses for this reason or another: both are told") {
    host.tree.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n");
    CHECK(host.refuses(EPERM).why == Why::lockdown);
    CHECK(host.refuses(EINVAL, "unknown func bpf_x#1").text() ==
          "the kernel refuses the BPF program: Invalid argument (unknown func bpf_x#1); it is "
          "locked down for confidentiality");
    const std::string_view remedy = host.refuses(EPERM).remedy();
    CHECK(remedy.find("CAP_BPF") != std::string_view::npos);
    CHECK(remedy.find("lockdown=integrity") != std::string_view::npos);
  }
  SECTION("anything else is told in the kernel's words") {
    const PinTestRefusal refusal = host.refuses(EINVAL, "unknown func bpf_x#1");
    CHECK(refusal.why == Why::refused);
    CHECK(refusal.text() ==
          "the kernel refuses the BPF program: Invalid argument (unknown func bpf_x#1)");
  }
}

TEST_CASE("a kernel that does not describe its types is told") {
  const test::FakeTree tree;
  tree.write("proc/sys/kernel/osrelease", "6.12.1\n");
  const PinTestRefusal refusal = refusal_of(ENOENT, {}, Procfs(tree.root()));
  CHECK(refusal.why == Why::no_types);
  CHECK(refusal.remedy().find("CONFIG_DEBUG_INFO_BTF") != std::string_view::npos);
  CHECK(Procfs(tree.root()).lockdown() == "none");
}
