// SPDX-License-Identifier: GPL-2.0-or-later
// Amounts of memory as an operator writes them.
// Threads: pure functions.
#pragma once

#include <optional>
#include <string_view>

#include "policy/config.hpp"

namespace ramfold::policy {

inline constexpr std::string_view kAmountAllowed =
    "bytes (4294967296), a string with KiB, MiB, GiB or TiB (\"4 GiB\"), or a share of the "
    "host's RAM (\"20%\")";

// Empty when `text` has none of these forms, or is negative, not finite, above 100 % or above 2^53
// bytes.
std::optional<MemoryAmount> parse_amount(std::string_view text);

}  // namespace ramfold::policy
