// SPDX-License-Identifier: GPL-2.0-or-later
// The views as JSON and back: docs/control-protocol.md lists the fields. One description of each
// struct serves both directions, so what is written is what is read.
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
nlohmann::json to_json(const UnfoldPlan& view);
nlohmann::json to_json(const UnfoldProgress& view);
nlohmann::json to_json(const OperationError& view);

// Fields that are absent keep their defaults, unknown ones are skipped (a later daemon adds some);
// a field of another type or an unknown enumerator is an error that names it.
Status from_json(const nlohmann::json& json, Snapshot& view);
Status from_json(const nlohmann::json& json, VmView& view);
Status from_json(const nlohmann::json& json, UnfoldPlan& view);
Status from_json(const nlohmann::json& json, UnfoldProgress& view);
Status from_json(const nlohmann::json& json, OperationError& view);

// One line (indent < 0) or pretty. Names that are not UTF-8 are shown with replacement characters.
std::string text_of(const nlohmann::json& json, int indent);

}  // namespace ramfold::control
