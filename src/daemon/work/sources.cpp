// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/sources.hpp"

#include "scan/forget.hpp"
#include "scan/idle_source.hpp"

namespace ramfold::daemon {
namespace {

using policy::Referenced;

// UFFD_FEATURE_RWP of linux/userfaultfd.h, newer than the kernel headers that this is built with.
constexpr std::uint64_t kFeatureRwp = std::uint64_t{1} << 17;

}  // namespace

Sources::Sources(const Kernel& kernel)
    : forget_(std::make_unique<scan::ForgetSource>()),
      has_rwp_((kernel.userfaultfd & kFeatureRwp) != 0) {
  if (auto idle = sys::IdlePages::open(kernel.idle)) {
    page_idle_ = std::make_unique<scan::IdleSource>(std::move(*idle));
  } else {
    no_page_idle_ = idle.error().text();
  }
}

const scan::ReferencedSource* Sources::chosen(Referenced wanted) const noexcept {
  switch (wanted) {
    case Referenced::automatic: return page_idle_ ? page_idle_.get() : forget_.get();
    case Referenced::forget: return forget_.get();
    case Referenced::page_idle: return page_idle_.get();
    case Referenced::off:
    case Referenced::rwp: break;
  }
  return nullptr;
}

std::string_view Sources::name_of_chosen(Referenced wanted) const noexcept {
  const scan::ReferencedSource* const source = chosen(wanted);
  return source == nullptr ? "off" : source->name();
}

std::optional<control::Reason> Sources::refusal(Referenced wanted) const {
  if (wanted == Referenced::page_idle && !page_idle_) {
    return control::Reason{
        "referenced", "scan.referenced = \"page_idle\" cannot be used: " + no_page_idle_,
        "set scan.referenced = \"auto\"; or boot a kernel with CONFIG_IDLE_PAGE_TRACKING and give "
        "the daemon CAP_SYS_ADMIN (operators-guide.md)"};
  }
  // The kernel registers a range for write protection (MODE_WP) or for read-write protection
  // (MODE_RWP), never for both: they use the same bit of an entry of the page table. Guards need
  // MODE_WP.
  if (wanted == Referenced::rwp) {
    return control::Reason{"referenced",
                           has_rwp_ ? "scan.referenced = \"rwp\" cannot be used: the kernel gives "
                                      "a page either a guard or RWP, and folding needs guards"
                                    : "scan.referenced = \"rwp\" cannot be used: this kernel's "
                                      "userfaultfd has no RWP",
                           "set scan.referenced = \"auto\""};
  }
  return std::nullopt;
}

}  // namespace ramfold::daemon
