// SPDX-License-Identifier: GPL-2.0-or-later
// `ramfold top`: what it shows, made from two snapshots of the daemon.
// Threads: pure functions and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "control/views.hpp"

namespace ramfold::cli {

enum class TopColumn : std::uint8_t { id, name, state, resident, folded, stall, refaults, net };
inline constexpr std::size_t kTopColumns = 8;

struct TopRow {
  VmId id;
  std::string name;  // printable
  control::VmState state = control::VmState::connected;
  ByteCount resident;
  ByteCount folded;
  // Between the two snapshots; empty for a VM that was not in the first.
  std::optional<double> stall;     // share of wall time per vCPU
  std::optional<double> refaults;  // a second
  std::int64_t net_bytes = 0;
  bool over_budget = false;  // `stall` is above its stall budget
};

// `before`: an earlier snapshot of the same daemon, or null.
std::vector<TopRow> top_rows(const control::Snapshot* before, const control::Snapshot& now);
// The two snapshots come from two daemons.
bool is_restarted(const control::Snapshot& before, const control::Snapshot& now) noexcept;

// What the user has chosen.
struct TopChoice {
  TopColumn sort = TopColumn::net;
  bool reversed = false;  // figures: the smallest first; names and ids: the last first
  std::size_t first = 0;  // rows above the screen
  bool help = false;

  // False: the key means nothing. `rows`, `page`: all rows, and those that the screen shows.
  bool take(char key, std::size_t rows, std::size_t page);
};
inline constexpr char kTopUp = '\x01';  // keys that have no character
inline constexpr char kTopDown = '\x02';
inline constexpr char kTopPageUp = '\x03';
inline constexpr char kTopPageDown = '\x04';

// Figures: the largest first, unknown ones last. Equal rows by id.
void sort_rows(std::vector<TopRow>& rows, const TopChoice& choice);

struct TopLine {
  enum class Kind : std::uint8_t { plain, summary, notice, heading, over_budget };
  Kind kind = Kind::plain;
  std::string text;
};
// Heading and rows. Where `width` (0: any) does not suffice, columns are left out.
std::vector<TopLine> render_rows(const std::vector<TopRow>& rows, TopColumn sort,
                                 std::size_t width);
// A whole screen: at most `height` lines of at most `width` columns. `notice` may be empty, `now`
// null: the daemon has not answered.
std::vector<TopLine> render_top(const control::Snapshot* now, const std::vector<TopRow>& rows,
                                const TopChoice& choice, std::string_view notice, std::size_t width,
                                std::size_t height);
// Rows that render_top() has room for.
std::size_t rows_on(std::size_t height) noexcept;

}  // namespace ramfold::cli
