// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/work/read_cost.hpp"

#include <catch2/catch.hpp>

using namespace ramfold;
using daemon::mean_read_ns;
using store::Form;

namespace {

std::size_t of(Form form) { return static_cast<std::size_t>(form); }

}  // namespace

TEST_CASE("what reading takes goes by the forms of the pages, references included") {
  std::array<store::FormStats, store::kForms> forms{};
  store::CostModel::ByForm<double> decode_ns{};
  decode_ns[of(Form::lz4)] = 1'000;
  decode_ns[of(Form::mix)] = 200'000;
  decode_ns[of(Form::patch)] = 2'000;
  CHECK(mean_read_ns(forms, decode_ns) == 0);
  forms[of(Form::lz4)].references = 300;
  CHECK(mean_read_ns(forms, decode_ns) == Approx(1'000));
  forms[of(Form::mix)].references = 100;
  CHECK(mean_read_ns(forms, decode_ns) == Approx(50'750));
  // Each of these decodes its reference first.
  forms[of(Form::patch)].references = 400;
  CHECK(mean_read_ns(forms, decode_ns) == Approx((400 * 50'750.0 + 400 * 52'750.0) / 800));
}
