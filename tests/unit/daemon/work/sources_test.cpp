// SPDX-License-Identifier: GPL-2.0-or-later
// The choice among the sources that tell which pages guests touch, on kernels that offer more or
// less of them.
#include "daemon/work/sources.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "../../sys/fake_tree.hpp"

using namespace ramfold;
using daemon::Sources;
using policy::Referenced;

namespace {

constexpr std::uint64_t kRwp = std::uint64_t{1} << 17;

struct Tree : test::FakeTree {
  Sources::Kernel kernel(std::uint64_t userfaultfd = 0) const {
    return {userfaultfd, {root() + "/bitmap", root() + "/pagemap"}};
  }
  void offer_page_idle() const {
    write("bitmap", std::string(4096, '\0'));
    write("pagemap", "");
    const sys::Fd pagemap(::open((root() + "/pagemap").c_str(), O_WRONLY));
    const std::uint64_t entry = std::uint64_t{1} << 63 | 77;
    REQUIRE(::pwrite(pagemap.get(), &entry, 8,
                     static_cast<off_t>((sys::IdlePages::probe().value >> kPageShift) * 8)) == 8);
  }
};

}  // namespace

TEST_CASE("sources: nobody is asked unless the configuration says so") {
  const Tree tree;
  tree.offer_page_idle();
  const Sources sources(tree.kernel(kRwp));
  CHECK(sources.chosen(Referenced::off) == nullptr);
  CHECK(sources.name_of_chosen(Referenced::off) == "off");
  CHECK_FALSE(sources.refusal(Referenced::off).has_value());
}

TEST_CASE("sources: auto takes the one that costs the guest least") {
  const Tree tree;
  CHECK(Sources(tree.kernel()).name_of_chosen(Referenced::automatic) == "forget");
  tree.offer_page_idle();
  const Sources sources(tree.kernel());
  CHECK(sources.name_of_chosen(Referenced::automatic) == "page_idle");
  CHECK(sources.chosen(Referenced::automatic)->touch_ns() == 0);
  CHECK_FALSE(sources.chosen(Referenced::automatic)->needs_agent());
  CHECK_FALSE(sources.refusal(Referenced::automatic).has_value());
  CHECK(sources.name_of_chosen(Referenced::forget) == "forget");
  CHECK(sources.chosen(Referenced::forget)->needs_agent());
}

TEST_CASE("sources: one that the kernel lacks is refused, with the remedy") {
  const Tree tree;
  const Sources sources(tree.kernel());
  CHECK(sources.chosen(Referenced::page_idle) == nullptr);
  const auto refusal = sources.refusal(Referenced::page_idle);
  REQUIRE(refusal.has_value());
  CHECK(refusal->code == "referenced");
  CHECK(refusal->text.find("CONFIG_IDLE_PAGE_TRACKING") != std::string::npos);
  CHECK(refusal->remedy.find("auto") != std::string::npos);
  tree.offer_page_idle();
  const Sources offering(tree.kernel());
  CHECK(offering.name_of_chosen(Referenced::page_idle) == "page_idle");
  CHECK_FALSE(offering.refusal(Referenced::page_idle).has_value());
}

TEST_CASE("sources: RWP is refused, where the kernel lacks it and where it excludes guards") {
  const Tree tree;
  for (const std::uint64_t features : {std::uint64_t{0}, kRwp}) {
    const Sources sources(tree.kernel(features));
    CHECK(sources.chosen(Referenced::rwp) == nullptr);
    const auto refusal = sources.refusal(Referenced::rwp);
    REQUIRE(refusal.has_value());
    CHECK(refusal->remedy.find("auto") != std::string::npos);
    CHECK((refusal->text.find("guard") != std::string::npos) == (features != 0));
  }
}
