// SPDX-License-Identifier: GPL-2.0-or-later
// The sources that tell which pages guests touch (scan/referenced.hpp): which of them this host
// offers, found once, and which one the configuration chooses (scan.referenced).
// Threads: any, after construction.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "control/views.hpp"
#include "policy/config.hpp"
#include "scan/referenced.hpp"
#include "sys/idle_pages.hpp"

namespace ramfold::daemon {

class Sources {
 public:
  // Where to look; `userfaultfd`: the features that the kernel's userfaultfd offers.
  struct Kernel {
    std::uint64_t userfaultfd = 0;
    sys::IdlePages::Files idle;
  };
  explicit Sources(const Kernel& kernel);

  // Null: nobody is asked, because the configuration wants that or because the source that it wants
  // is refused.
  const scan::ReferencedSource* chosen(policy::Referenced wanted) const noexcept;
  std::string_view name_of_chosen(policy::Referenced wanted) const noexcept;
  // Why the source that the configuration wants is not used; nullopt: it is.
  std::optional<control::Reason> refusal(policy::Referenced wanted) const;

 private:
  std::unique_ptr<scan::ReferencedSource> forget_;
  std::unique_ptr<scan::ReferencedSource> page_idle_;  // null: see no_page_idle_
  std::string no_page_idle_;
  bool has_rwp_;
};

}  // namespace ramfold::daemon
