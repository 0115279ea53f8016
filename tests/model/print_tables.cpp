// SPDX-License-Identifier: GPL-2.0-or-later
// Prints the tables of guest/page_state.hpp as Promela, so that the model is checked against the
// code's own tables and not against a copy of them.
#include <array>
#include <cstdio>

#include "guest/page_state.hpp"

namespace {

using ramfold::guest::kOwnerChanges;
using ramfold::guest::kOwners;
using ramfold::guest::kTags;
using ramfold::guest::kTransitions;
using ramfold::guest::Owner;
using ramfold::guest::Tag;

constexpr std::array<const char*, kTags> kTagNames{"none",   "observed", "clean",
                                                   "folded", "mapped",   "poisoned"};
constexpr std::array<const char*, kOwners> kOwnerNames{"idle",    "folding", "punching",
                                                       "filling", "mapping", "restoring"};
static_assert(static_cast<int>(Tag::poisoned) == kTags - 1, "kTagNames follows the order of Tag");
static_assert(static_cast<int>(Owner::restoring) == kOwners - 1, "kOwnerNames follows Owner");

const char* name(Tag t) { return kTagNames[static_cast<std::size_t>(t)]; }
const char* name(Owner o) { return kOwnerNames[static_cast<std::size_t>(o)]; }

}  // namespace

int main() {
  std::puts("/* Made from src/guest/page_state.hpp by print_tables.cpp; do not edit. */");
  for (std::size_t i = 0; i < kTags; ++i) std::printf("#define TAG_%s %zu\n", kTagNames[i], i);
  for (std::size_t i = 0; i < kOwners; ++i) std::printf("#define OWN_%s %zu\n", kOwnerNames[i], i);

  // The number of the table's row, or 255 where there is none. A kept tag needs no row.
  std::puts("inline TAG_ROW(from, to, by, row) {\n  if");
  for (std::size_t i = 0; i < kTransitions.size(); ++i) {
    const auto& t = kTransitions[i];
    std::printf("  :: (from == TAG_%s && to == TAG_%s && by == OWN_%s) -> row = %zu\n",
                name(t.from), name(t.to), name(t.by), i);
  }
  std::puts("  :: else -> row = 255\n  fi\n}");
  std::puts("inline OWNER_ROW(from, to, row) {\n  if");
  for (std::size_t i = 0; i < kOwnerChanges.size(); ++i) {
    const auto& c = kOwnerChanges[i];
    std::printf("  :: (from == OWN_%s && to == OWN_%s) -> row = %zu\n", name(c.from), name(c.to),
                i);
  }
  std::puts("  :: else -> row = 255\n  fi\n}");

  // Which rows the search has used, counted outside the model's state and printed when pan ends.
  std::puts("c_decl {");
  std::printf("static struct { const char *name; unsigned long used; } tag_rows[] = {\n");
  for (const auto& t : kTransitions) {
    std::printf("  {\"word %s->%s by %s\", 0},\n", name(t.from), name(t.to), name(t.by));
  }
  std::puts("};\nstatic struct { const char *name; unsigned long used; } owner_rows[] = {");
  for (const auto& c : kOwnerChanges) {
    std::printf("  {\"owner %s->%s\", 0},\n", name(c.from), name(c.to));
  }
  std::puts("};");
  std::puts("static void __attribute__((destructor)) report_rows(void) {");
  std::puts("  unsigned i;");
  for (const char* rows : {"tag_rows", "owner_rows"}) {
    std::printf("  for (i = 0; i < sizeof %s / sizeof *%s; i++)\n", rows, rows);
    std::printf("    printf(\"row %%s: %%lu\\n\", %s[i].name, %s[i].used);\n", rows, rows);
  }
  std::puts("}\n}");
  return 0;
}
