// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/view_json.hpp"

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "control/names.hpp"

namespace ramfold::control {
namespace {

using Json = nlohmann::json;

template <typename S, typename View>
concept Is = std::same_as<std::remove_const_t<S>, View>;

// --- one description of each view; `derived` fields are written for people and never read
// ----------

template <typename Io, Is<Reason> S>
void visit(Io& io, S& s) {
  io("code", s.code);
  io("text", s.text);
  io("remedy", s.remedy);
}

template <typename Io, Is<Mechanism> S>
void visit(Io& io, S& s) {
  io("pages", s.pages);
  io("saved_bytes", s.saved);
}

template <typename Io, Is<Savings> S>
void visit(Io& io, S& s) {
  io("zero", s.zero);
  io("shared", s.shared);
  io("compressed", s.compressed);
  io("net_bytes", s.net_bytes);
  io.derived("folded_pages", s.folded_pages());
  io.derived("gross_bytes", s.gross());
}

template <typename Io, Is<Spent> S>
void visit(Io& io, S& s) {
  io("arena_used_bytes", s.arena_used);
  io("arena_allocated_bytes", s.arena_allocated);
  io("content_headers_bytes", s.content_headers);
  io("index_bytes", s.index);
  io("page_tables_bytes", s.page_tables);
  io("discard_bitmaps_bytes", s.discard_bitmaps);
  io("kernel_page_tables_bytes", s.kernel_page_tables);
  io("kernel_mappings_bytes", s.kernel_mappings);
  io("processes_bytes", s.processes);
  io.derived("overhead_bytes", s.overhead());
}

template <typename Io, Is<Promise> S>
void visit(Io& io, S& s) {
  io("needed_if_all_back_bytes", s.needed_if_all_back);
  io("available_bytes", s.available);
  io("reserve_bytes", s.reserve);
  io("unbacked_max_bytes", s.unbacked_max);
  io.derived("limit_bytes", s.limit());
  io.derived("kept", s.kept());
}

template <typename Io, Is<SelfTestView> S>
void visit(Io& io, S& s) {
  io("name", s.name);
  io("outcome", s.outcome);
  io("detail", s.detail);
  io("remedy", s.remedy);
}

template <typename Io, Is<KeeperView> S>
void visit(Io& io, S& s) {
  io("state", s.state);
  io("descriptors", s.descriptors);
  io("detail", s.detail);
}

template <typename Io, Is<CpuView> S>
void visit(Io& io, S& s) {
  io("scan_seconds", s.scan_seconds);
  io("fold_seconds", s.fold_seconds);
  io("fault_seconds", s.fault_seconds);
  io("reform_seconds", s.reform_seconds);
}

template <typename Io, Is<FormView> S>
void visit(Io& io, S& s) {
  io("form", s.form);
  io("contents", s.contents);
  io("stored_bytes", s.stored);
  io("decode_ns", s.decode_ns);
  io("decode_columns_ns", s.decode_columns_ns);
  io("given", s.given);
  io("patch_after_seconds", s.patch_after_s);
  io("dense_after_seconds", s.dense_after_s);
  io("densest_after_seconds", s.densest_after_s);
  io("mixed_after_seconds", s.mixed_after_s);
}

template <typename Io, Is<ReformView> S>
void visit(Io& io, S& s) {
  io.derived("active", s.active());
  io("cpu_seconds_per_gib_hour", s.cpu_s_per_gib_hour);
  io("forms", s.forms);
  io("attempts", s.attempts);
  io("moved", s.moved);
  io("rewritten", s.rewritten);
}

template <typename Io, Is<HostView> S>
void visit(Io& io, S& s) {
  io("state", s.state);
  io("reasons", s.reasons);
  io("notices", s.notices);
  io("version", s.version);
  io("kernel", s.kernel);
  io("self_test", s.self_test);
  io("keeper", s.keeper);
  io("ram_total_bytes", s.ram_total);
  io("ram_available_bytes", s.ram_available);
  io("keep_available_bytes", s.keep_available);
  io("saved", s.saved);
  io("spent", s.spent);
  io("promise", s.promise);
  io("cpu", s.cpu);
  io("reform", s.reform);
  io("uptime_seconds", s.uptime_seconds);
  io("restarts", s.restarts);
  io("vms_attached", s.vms_attached);
  io("vms_observe_only", s.vms_observe_only);
  io("contents", s.contents);
}

template <typename Io, Is<FaultKindView> S>
void visit(Io& io, S& s) {
  io("kind", s.kind);
  io("count", s.count);
  io("p50_ns", s.p50_ns);
  io("p99_ns", s.p99_ns);
  io("max_ns", s.max_ns);
}

template <typename Io, Is<PagesView> S>
void visit(Io& io, S& s) {
  io("total", s.total);
  io("touched", s.touched);
  io("resident", s.resident);
  io("observed", s.observed);
  io("clean", s.clean);
  io("poisoned", s.poisoned);
}

template <typename Io, Is<RamBlockView> S>
void visit(Io& io, S& s) {
  io("name", s.name);
  io("address", s.address);
  io("size_bytes", s.size);
  io("file_offset_bytes", s.file_offset);
  io("inode", s.inode);
}

template <typename Io, Is<BackoffView> S>
void visit(Io& io, S& s) {
  io("held_pages", s.held);
  io("returns", s.returns);
}

template <typename Io, Is<KeptView> S>
void visit(Io& io, S& s) {
  io("page_table_bytes", s.page_table);
  io("discard_bitmap_bytes", s.discard_bitmap);
  io("stored_bytes", s.stored);
  io.derived("total_bytes", s.total());
  io("limit_bytes", s.limit);
  io("names", s.names);
}

template <typename Io, Is<VmView> S>
void visit(Io& io, S& s) {
  io("id", s.id);
  io("name", s.name);
  io("uuid", s.uuid);
  io("pid", s.pid);
  io("uid", s.uid);
  io("group", s.group);
  io("state", s.state);
  io("gate", s.gate);
  io("reasons", s.reasons);
  io("pages", s.pages);
  io("saved", s.saved);
  io("faults", s.faults);
  io("kept", s.kept);
  io("backoff", s.backoff);
  io("reform", s.reform);
  io("stall_share", s.stall_share);
  io("fault_events", s.fault_events);
  io("fault_errors", s.fault_errors);
  io("pass_seconds", s.pass_seconds);
  io("passes", s.passes);
  io("blocks", s.blocks);
}

template <typename Io, Is<Snapshot> S>
void visit(Io& io, S& s) {
  io("host", s.host);
  io("vms", s.vms);
}

template <typename Io, Is<UnfoldPlan> S>
void visit(Io& io, S& s) {
  io("pages", s.pages);
  io("needed_bytes", s.needed);
  io("available_bytes", s.available);
  io("seconds", s.seconds);
  io.derived("missing_bytes", s.missing());
}

template <typename Io, Is<UnfoldProgress> S>
void visit(Io& io, S& s) {
  io("done_pages", s.done);
  io("total_pages", s.total);
  io("seconds_left", s.seconds_left);
}

template <typename Io, Is<OperationError> S>
void visit(Io& io, S& s) {
  io("failure", s.failure);
  io("text", s.text);
  io("remedy", s.remedy);
  io("missing_bytes", s.missing);
}

// --- writing -------------------------------------------------------------------------------------

class Writer {
 public:
  template <typename T>
  void operator()(const char* name, const T& value) {
    json_[name] = write(value);
  }
  template <typename T>
  void derived(const char* name, const T& value) {
    json_[name] = write(value);
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
    } else if constexpr (requires { value.begin(); }) {
      Json array = Json::array();
      for (const auto& item : value) array.push_back(write(item));
      return array;
    } else {
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
  void operator()(const char* name, T& value) {
    if (!status_) return;
    const auto found = json_.find(name);
    if (found != json_.end()) status_ = read(*found, value, path_ + "." + name);
  }
  template <typename T>
  void derived(const char*, const T&) {}
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
Json to_json(const UnfoldPlan& view) { return Writer::write(view); }
Json to_json(const UnfoldProgress& view) { return Writer::write(view); }
Json to_json(const OperationError& view) { return Writer::write(view); }

Status from_json(const Json& json, Snapshot& view) { return Reader::read(json, view, "snapshot"); }
Status from_json(const Json& json, VmView& view) { return Reader::read(json, view, "vm"); }
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
