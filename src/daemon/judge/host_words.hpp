// SPDX-License-Identifier: GPL-2.0-or-later
// The words of the host's reasons: one function for each code. judge_host() decides which of them
// hold. The code is stable, for programs; text and remedy are for the operator.
// Threads: pure functions.
#pragma once

#include <optional>
#include <string>

#include "base/types.hpp"
#include "control/views.hpp"
#include "guest/facts.hpp"

namespace ramfold::daemon::host_words {

// Nothing is folded.
control::Reason state(const std::string& why_unreadable);
control::Reason starting();
control::Reason self_test();
control::Reason no_pin_test(const guest::NoPinTest& why);
enum class KeeperIs : bool { absent, silent };
control::Reason no_keeper(KeeperIs keeper);
control::Reason recovering();
control::Reason not_recovered(const std::string& why);
// `held`: the VM will be served after the rest of the last daemon has ended.
control::Reason unusable_vm(VmId vm, const std::string& why, bool held);
// `trouble`: why not everything is back. `but_lost`: everything is back but these lost pages.
control::Reason off(const std::optional<std::string>& trouble,
                    const std::optional<std::string>& but_lost);
control::Reason paused();
control::Reason promise();
control::Reason meminfo();

// Folding waits, or folds less.
control::Reason memory_plentiful(std::string remedy);
control::Reason store_full();

}  // namespace ramfold::daemon::host_words
