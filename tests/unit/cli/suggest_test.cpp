// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/suggest.hpp"

#include <catch2/catch.hpp>

using ramfold::cli::closest;
using ramfold::cli::did_you_mean;

TEST_CASE("a misspelt word is told from another one") {
  const std::vector<std::string> commands{"status", "list",  "show",   "attach", "detach",
                                          "off",    "pause", "resume", "doctor", "estimate"};
  CHECK(closest("lsit", commands) == "list");
  CHECK(closest("statsu", commands) == "status");
  CHECK(closest("DOCTOR", commands) == "doctor");
  CHECK(closest("detatch", commands) == "detach");
  CHECK(closest("estimates", commands) == "estimate");
  CHECK(closest("of", commands) == "off");
  CHECK(closest("frob", commands).empty());
  CHECK(closest("", commands).empty());
  CHECK(closest(std::string(1000, 'a'), commands).empty());
  CHECK(did_you_mean("lsit", commands) == "; did you mean 'list'?");
  CHECK(did_you_mean("frob", commands).empty());
}
