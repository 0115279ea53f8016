// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/view_json.hpp"

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "control/names.hpp"
#include "control/view_fields.hpp"

namespace ramfold::control {
namespace {

using Json = nlohmann::json;
using Counters = std::vector<CounterView>;  // one object: {"name": value, ...}

// --- writing -------------------------------------------------------------------------------------

class Writer {
 public:
  template <typename T>
  void operator()(const Metric& field, const T& value) {
    json_[std::string(field.name)] = write(value);
  }
  template <typename F>
  void derived(const Metric& field, const F& value) {
    (*this)(field, value());
  }
  Json take() { return std::move(json_); }

  template <typename T>
  static Json write(const T& value) {
    if constexpr (std::is_enum_v<T>) {
      return std::string(name_of(value));
    } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
      return value;
    } else if constexpr (requires { value.value; }) {
      return value.value;  // a strong type
    } else if constexpr (std::same_as<T, Counters>) {
      Json object = Json::object();
      for (const CounterView& counter : value) object[counter.name] = counter.value;
      return object;
    } else if constexpr (requires { value.begin(); }) {
      Json array = Json::array();
      for (const auto& item : value) array.push_back(write(item));
      return array;
    } else {
      static_assert(kVisitsAll<T>);
      Writer writer;
      visit(writer, value);
      return writer.take();
    }
  }

 private:
  Json json_ = Json::object();
};

// --- reading -------------------------------------------------------------------------------------

class Reader {
 public:
  Reader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  template <typename T>
  void operator()(const Metric& field, T& value) {
    if (!status_) return;
    const std::string name(field.name);
    const auto found = json_.find(name);
    if (found != json_.end()) status_ = read(*found, value, path_ + "." + name);
  }
  template <typename F>
  void derived(const Metric&, const F&) {}
  Status status() const { return status_; }

  template <typename T>
  static Status read(const Json& json, T& value, const std::string& path) {
    if constexpr (std::is_enum_v<T>) {
      const auto* text = json.get_ptr<const std::string*>();
      const auto known = text != nullptr ? value_of<T>(*text) : std::nullopt;
      if (!known) return wrong(path);
      value = *known;
      return {};
    } else if constexpr (std::same_as<T, std::string>) {
      const auto* text = json.get_ptr<const std::string*>();
      if (text == nullptr) return wrong(path);
      value = *text;
      return {};
    } else if constexpr (std::integral<T>) {
      return read_integer(json, value, path);
    } else if constexpr (std::floating_point<T>) {
      if (!json.is_number()) return wrong(path);
      value = json.get<T>();
      return {};
    } else if constexpr (requires { value.value; }) {
      return read_integer(json, value.value, path);
    } else if constexpr (std::same_as<T, Counters>) {
      if (!json.is_object()) return wrong(path);
      for (const auto& [name, item] : json.items()) {
        value.push_back({name, 0});
        const Status status = read_integer(item, value.back().value, path + "." + name);
        if (!status) return status;
      }
      return {};
    } else if constexpr (requires { value.push_back({}); }) {
      if (!json.is_array()) return wrong(path);
      for (const Json& item : json) {
        value.emplace_back();
        if (const Status status = read(item, value.back(), path + "[]"); !status) return status;
      }
      return {};
    } else {
      if (!json.is_object()) return wrong(path);
      Reader reader(json, path);
      visit(reader, value);
      return reader.status();
    }
  }

 private:
  template <std::integral T>
  static Status read_integer(const Json& json, T& value, const std::string& path) {
    if (const auto* number = json.get_ptr<const std::uint64_t*>()) {
      if (*number > static_cast<std::uint64_t>(std::numeric_limits<T>::max())) return wrong(path);
      value = static_cast<T>(*number);
      return {};
    }
    const auto* number = json.get_ptr<const std::int64_t*>();
    if (number == nullptr || !std::in_range<T>(*number)) return wrong(path);
    value = static_cast<T>(*number);
    return {};
  }
  static std::unexpected<Error> wrong(const std::string& path) {
    return fail("field " + path + " is not what this version understands");
  }

  const Json& json_;
  std::string path_;
  Status status_{};
};

}  // namespace

Json to_json(const Snapshot& view) { return Writer::write(view); }
Json to_json(const HostView& view) { return Writer::write(view); }
Json to_json(const VmView& view) { return Writer::write(view); }
Json to_json(const PolicyView& view) { return Writer::write(view); }
Json to_json(const UnfoldPlan& view) { return Writer::write(view); }
Json to_json(const UnfoldProgress& view) { return Writer::write(view); }
Json to_json(const OperationError& view) { return Writer::write(view); }

Status from_json(const Json& json, Snapshot& view) { return Reader::read(json, view, "snapshot"); }
Status from_json(const Json& json, VmView& view) { return Reader::read(json, view, "vm"); }
Status from_json(const Json& json, PolicyView& view) { return Reader::read(json, view, "policy"); }
Status from_json(const Json& json, UnfoldPlan& view) { return Reader::read(json, view, "plan"); }
Status from_json(const Json& json, UnfoldProgress& view) {
  return Reader::read(json, view, "progress");
}
Status from_json(const Json& json, OperationError& view) {
  return Reader::read(json, view, "error");
}

std::string text_of(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace ramfold::control
