// SPDX-License-Identifier: GPL-2.0-or-later
// Why the kernel gives no answers, and what the operator can do. What it answers is tested on a
// real kernel: tests/kernel/pins_test.cpp.
#include "sys/pin_test.hpp"

#include <catch2/catch.hpp>
#include <cerrno>

#include "sys/bpf_load.hpp"
#include "sys/fake_tree.hpp"

using namespace ramfold;
using namespace ramfold::sys;
using Why = PinTestRefusal::Why;

namespace {

constexpr bool kOfVerifier = true;

// A host on which nothing but a capability is missing.
struct Host {
  Host() {
    tree.write("proc/sys/kernel/osrelease", "6.12.1\n");
    tree.write("sys/kernel/btf/vmlinux", "types");
    tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
  }
  PinTestRefusal refuses(int code, LoadWords words = {}) const {
    return refusal_of(code, std::move(words), Procfs(tree.root()));
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
    // libbpf's advice, which is about limits of memory, would mislead.
    CHECK(host.refuses(EACCES, {"Couldn't load trivial BPF program."}).text() ==
          "loading a BPF program is not permitted: Permission denied");
    CHECK(host.refuses(EPERM, {"access is allowed only to CAP_PERFMON", kOfVerifier}).text() ==
          "loading a BPF program is not permitted: Operation not permitted (access is allowed only "
          "to CAP_PERFMON)");
  }
  SECTION("the verifier, which says EACCES, too: this program, and not whoever loads it") {
    const PinTestRefusal refusal = host.refuses(EACCES, {"R1 invalid mem access", kOfVerifier});
    CHECK(refusal.why == Why::refused);
    CHECK(refusal.text() ==
          "the kernel refuses the BPF program: Permission denied (R1 invalid mem access)");
    CHECK(refusal.remedy().find("an unmodified kernel") != std::string_view::npos);
  }
  SECTION("an old kernel, whatever else it lacks") {
    host.tree.write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
    CHECK(host.refuses(EPERM).why == Why::kernel_too_old);
    CHECK(host.refuses(ESRCH).remedy() == "boot Linux 6.7 or newer");
  }
  SECTION("a kernel that is locked down refuses for this reason or another: both are told") {
    host.tree.write("sys/kernel/security/lockdown", "none integrity [confidentiality]\n");
    CHECK(host.refuses(EPERM).why == Why::lockdown);
    CHECK(host.refuses(EINVAL, {"unknown func bpf_x#1", kOfVerifier}).text() ==
          "the kernel refuses the BPF program: Invalid argument (unknown func bpf_x#1); it is "
          "locked down for confidentiality");
    const std::string_view remedy = host.refuses(EPERM).remedy();
    CHECK(remedy.find("CAP_BPF") != std::string_view::npos);
    CHECK(remedy.find("lockdown=integrity") != std::string_view::npos);
  }
  SECTION("anything else is told in the kernel's words") {
    const PinTestRefusal refusal = host.refuses(EINVAL, {"unknown func bpf_x#1", kOfVerifier});
    CHECK(refusal.why == Why::refused);
    CHECK(refusal.text() ==
          "the kernel refuses the BPF program: Invalid argument (unknown func bpf_x#1)");
  }
}

TEST_CASE("of libbpf's messages the reason is kept") {
  LoadWords words;
  SECTION("the verifier's: the last line before its figures") {
    for (const char* message :
         {"libbpf: prog 'pin_test': BPF program load failed: Permission denied\n",
          "libbpf: prog 'pin_test': -- BEGIN PROG LOAD LOG --\n"
          "0: R1=ctx() R10=fp0\n"
          "1: (61) r0 = *(u32 *)(r1 +0)\n"
          "R1 invalid mem access 'scalar'\n"
          "processed 2 insns (limit 1000000) max_states_per_insn 0\n"
          "-- END PROG LOAD LOG --\n",
          "libbpf: prog 'pin_test': failed to load: -13\n", "libbpf: failed to load object ''\n"})
      hear(words, message);
    CHECK(words.of_verifier);
    CHECK(words.text == "R1 invalid mem access 'scalar'");
  }
  SECTION("libbpf's own, where the kernel was not asked") {
    for (const char* message :
         {"libbpf: Error loading vmlinux BTF: -2\n", "libbpf: failed to load object ''\n"})
      hear(words, message);
    CHECK_FALSE(words.of_verifier);
    CHECK(words.text == "libbpf: Error loading vmlinux BTF: -2");
  }
  SECTION("a log that has no reason, or no end") {
    hear(words, "-- BEGIN PROG LOAD LOG --\nprocessed 2 insns\n\n-- END PROG LOAD LOG --\n");
    CHECK(words.of_verifier);
    CHECK(words.text.empty());
    LoadWords cut;
    hear(cut, "-- BEGIN PROG LOAD LOG --\n");
    CHECK(cut.text.empty());
    LoadWords open;
    hear(open, "-- BEGIN PROG LOAD LOG --\nR1 invalid\n");
    CHECK(open.text == "R1 invalid");
  }
  SECTION("a long line is cut") {
    hear(words, std::string(5000, 'x'));
    CHECK(words.text.size() == 512);
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
