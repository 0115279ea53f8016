// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/view_fields.hpp"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "../described.hpp"
#include "control/names.hpp"
#include "control/view_json.hpp"

using namespace ramfold;
using namespace ramfold::control;

namespace {

// Gives each member a value that no other has, two elements to each list, and looks at each
// description.
class Filler {
 public:
  template <typename T>
  void fill(T& value) {
    if constexpr (std::is_enum_v<T>) {
      value = names_of(T{}).back().first;
    } else if constexpr (std::floating_point<T>) {
      value = static_cast<T>(++next_) + 0.5;
    } else if constexpr (std::integral<T>) {
      value = static_cast<T>(++next_);
    } else if constexpr (std::same_as<T, std::string>) {
      value = "text " + std::to_string(++next_);
    } else if constexpr (std::same_as<T, std::vector<CounterView>>) {
      value = {{"a", ++next_}, {"b", ++next_}};
    } else if constexpr (requires { value.value; }) {
      fill(value.value);
    } else if constexpr (requires { value.push_back({}); }) {
      value.resize(2);
      for (auto& item : value) fill(item);
    } else {
      static_assert(kVisitsAll<T>);
      visit(*this, value);
    }
  }
  template <typename T>
  void operator()(const Metric& field, T& value) {
    look_at<T>(field);
    fill(value);
  }
  template <typename F>
  void derived(const Metric& field, const F&) {
    look_at<std::invoke_result_t<F>>(field);
  }

  std::vector<Metric> fields;

 private:
  template <typename T>
  void look_at(const Metric& field) {
    INFO(field.name);
    const bool list = requires(T v) { v.push_back({}); };
    const bool amount =
        std::floating_point<T> || std::same_as<T, PageCount> || std::same_as<T, ByteCount>;
    if (amount && field.name != "file_offset_bytes") CHECK(field.kind != MetricKind::none);
    if (std::is_enum_v<T> || list) CHECK(field.kind == MetricKind::none);
    if (std::same_as<T, ByteCount>) CHECK(field.name.ends_with("_bytes"));
    fields.push_back(field);
  }

  std::uint64_t next_ = 0;
};

template <typename View>
std::vector<Metric> check_comes_back() {
  Filler filler;
  View view;
  filler.fill(view);
  const auto json = to_json(view);
  View back;
  REQUIRE(from_json(json, back));
  CHECK(back == view);
  CHECK(text_of(to_json(back), -1) == text_of(json, -1));
  return filler.fields;
}

std::vector<Metric> all_fields() {
  std::vector<Metric> all;
  for (const auto& fields :
       {check_comes_back<Snapshot>(), check_comes_back<UnfoldPlan>(),
        check_comes_back<UnfoldProgress>(), check_comes_back<OperationError>()}) {
    all.insert(all.end(), fields.begin(), fields.end());
  }
  return all;
}

}  // namespace

TEST_CASE("every member of every view reaches JSON and comes back") {
  for (const Metric& field : all_fields()) check_well_described(field);
}

TEST_CASE("counters of a later daemon are read as well; what is no number is an error") {
  VmView vm;
  auto json = to_json(vm);
  CHECK(json["counters"].is_object());
  json["counters"]["of_a_later_daemon"] = 7;
  REQUIRE(from_json(json, vm));
  CHECK(vm.counters == std::vector<CounterView>{{"of_a_later_daemon", 7}});
  json["counters"]["of_a_later_daemon"] = "many";
  const auto status = from_json(json, vm);
  REQUIRE_FALSE(status.has_value());
  CHECK(status.error().what.find("vm.counters.of_a_later_daemon") != std::string::npos);
  json["counters"] = 7;
  CHECK_FALSE(from_json(json, vm).has_value());
}

TEST_CASE("docs/control-protocol.md names every field, and tells each figure as it is described") {
  const std::string document = protocol_document();
  std::set<std::string> figures;
  for (const Metric& field : all_fields()) {
    INFO(field.name);
    if (field.kind == MetricKind::none) {
      CHECK(document.find('`' + std::string(field.name) + '`') != std::string::npos);
    } else {
      figures.insert(row_of(field));
    }
  }
  const std::size_t counters = document.find("\n## Counters\n");
  REQUIRE(counters != std::string::npos);
  check_same_rows(figures, rows_of_figures(document.substr(0, counters)));
}
