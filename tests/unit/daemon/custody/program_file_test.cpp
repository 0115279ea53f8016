// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/program_file.hpp"

#include <catch2/catch.hpp>
#include <filesystem>

#include "unit/temp_dir.hpp"

using namespace ramfold;
using namespace ramfold::daemon;

TEST_CASE("a program is replaced when another file is in its place, not when there is none") {
  const TempDir dir;
  dir.write("program", "1");
  const ProgramFile program(dir / "program");
  CHECK_FALSE(program.was_replaced());
  dir.write("new", "2");
  std::filesystem::rename(dir / "program", dir / "old");
  CHECK_FALSE(program.was_replaced());
  std::filesystem::rename(dir / "new", dir / "program");
  CHECK(program.was_replaced());
  CHECK_FALSE(ProgramFile().was_replaced());
  CHECK_FALSE(ProgramFile(dir / "nothing").was_replaced());
}
