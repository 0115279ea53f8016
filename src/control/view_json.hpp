// SPDX-License-Identifier: GPL-2.0-or-later
// Converts views to JSON and back. docs/control-protocol.md lists the fields. Both directions use
// one description of each struct (view_fields.hpp), so they agree.
// Threads: pure functions.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/result.hpp"
#include "control/service.hpp"
#include "control/views.hpp"

namespace ramfold::control {

nlohmann::json to_json(const Snapshot& view);
nlohmann::json to_json(const HostView& view);
nlohmann::json to_json(const VmView& view);
nlohmann::json to_json(const PolicyView& view);
nlohmann::json to_json(const UnfoldPlan& view);
nlohmann::json to_json(const UnfoldProgress& view);
nlohmann::json to_json(const OperationError& view);

// An absent field keeps its default. An unknown field is skipped: a later daemon may add one. A
// field of a wrong type, or an unknown enumerator, is an error that names the field.
Status from_json(const nlohmann::json& json, Snapshot& view);
Status from_json(const nlohmann::json& json, VmView& view);
Status from_json(const nlohmann::json& json, PolicyView& view);
Status from_json(const nlohmann::json& json, UnfoldPlan& view);
Status from_json(const nlohmann::json& json, UnfoldProgress& view);
Status from_json(const nlohmann::json& json, OperationError& view);

// One line if indent < 0, else indented lines. Bytes that are not UTF-8 become replacement
// characters.
std::string text_of(const nlohmann::json& json, int indent);

}  // namespace ramfold::control
