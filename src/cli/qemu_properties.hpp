// SPDX-License-Identifier: GPL-2.0-or-later
// The argument of a QEMU option as properties: "driver,key=value,..." with ",," for a comma, or
// JSON. Threads: pure functions.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace ramfold::cli {

// Nested JSON keys and places in JSON lists are joined by dots, as QEMU's own key=value form writes
// them ("children.0.file.filename"); booleans become on and off. The first part without '=' is kept
// under `implied`.
using Properties = std::map<std::string, std::string>;
Properties parse_properties(std::string_view text, const std::string& implied);

// What QEMU takes for true (on, yes, true, y) and for false (off, no, false, n). A key that is
// absent, or has another value, is neither.
bool is_on(const Properties& properties, const std::string& key);
bool is_off(const Properties& properties, const std::string& key);
std::string value_of(const Properties& properties, const std::string& key);

}  // namespace ramfold::cli
