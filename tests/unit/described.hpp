// SPDX-License-Identifier: GPL-2.0-or-later
// The rules for every described figure, and its row in docs/control-protocol.md.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "base/metric.hpp"

namespace ramfold {

inline std::string protocol_document() {
  const char* root = std::getenv("RAMFOLD_SOURCE_ROOT");
  REQUIRE(root != nullptr);
  std::ifstream file(std::string(root) + "/docs/control-protocol.md");
  std::ostringstream text;
  text << file.rdbuf();
  REQUIRE_FALSE(text.str().empty());
  return text.str();
}

inline std::string row_of(const Metric& metric) {
  return "| `" + std::string(metric.name) + "` | " + std::string(name_of(metric.kind)) + " | " +
         std::string(metric.help) + " |";
}

// The rows of that form in a document, or in a part of it.
inline std::set<std::string> rows_of_figures(const std::string& text) {
  std::set<std::string> rows;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    for (const char* kind : {"` | counter | ", "` | gauge | ", "` | latency | "}) {
      if (line.starts_with("| `") && line.find(kind) != std::string::npos) rows.insert(line);
    }
  }
  return rows;
}

inline void check_same_rows(const std::set<std::string>& described,
                            const std::set<std::string>& documented) {
  for (const std::string& row : described) {
    INFO("docs/control-protocol.md lacks this row: " << row);
    CHECK(documented.contains(row));
  }
  for (const std::string& row : documented) {
    INFO("docs/control-protocol.md has this row, and no figure is so: " << row);
    CHECK(described.contains(row));
  }
}

inline void check_well_described(const Metric& metric) {
  INFO(metric.name << ": " << metric.help);
  CHECK_FALSE(metric.name.empty());
  CHECK(std::ranges::all_of(metric.name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  }));
  if (metric.kind == MetricKind::none) return;
  CHECK(metric.help.ends_with('.'));
  CHECK(metric.help.find('|') == std::string_view::npos);
  CHECK(metric.help.find('\n') == std::string_view::npos);
}

}  // namespace ramfold
