// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/configuration.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <array>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <string_view>

#include "policy/targets.hpp"
#include "sys/durable_file.hpp"

namespace ramfold::daemon {
namespace {

constexpr const char* kGoodName = "ramfold.toml.good";
constexpr std::string_view kGoodHead = "# ramfold: the last good configuration; ";
constexpr std::size_t kHeadBytesMax = 8192;  // a path has 4095 at most
constexpr std::string_view kRemedy = "mend the file, then `systemctl reload ramfold`";

std::string shown_time(std::time_t seconds) {
  std::tm parts{};
  std::array<char, 64> text{};
  if (::gmtime_r(&seconds, &parts) == nullptr) return "?";
  return {text.data(), std::strftime(text.data(), text.size(), "%F %T UTC", &parts)};
}

std::string head_of(std::string_view path, std::time_t read, std::size_t bytes) {
  return fmt::format("{}bytes={} read={} file={}\n", kGoodHead, bytes,
                     static_cast<std::int64_t>(read), path);
}

template <typename Number>
std::optional<Number> take_number(std::string_view& line, std::string_view key) {
  if (!line.starts_with(key)) return std::nullopt;
  line.remove_prefix(key.size());
  Number number{};
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc{} || end == line.data() + line.size() || *end != ' ') return std::nullopt;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()) + 1);
  return number;
}

struct Good {
  policy::ConfigReading reading;
  std::time_t read = 0;
};

// nullopt: there is no copy, it is a copy of another file, it is torn, or it is not valid.
std::optional<Good> last_good(const std::string& directory, std::string_view path) {
  const auto copy =
      sys::read_small_file(directory + "/" + kGoodName, policy::kConfigBytesMax + kHeadBytesMax);
  if (!copy || !*copy) return std::nullopt;
  std::string_view text = **copy;
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos || !text.starts_with(kGoodHead)) return std::nullopt;
  std::string_view head = text.substr(kGoodHead.size(), end - kGoodHead.size());
  text.remove_prefix(end + 1);
  const auto bytes = take_number<std::size_t>(head, "bytes=");
  const auto read = take_number<std::int64_t>(head, "read=");
  if (bytes != text.size() || !read || head != fmt::format("file={}", path)) return std::nullopt;
  auto reading = policy::read_config(text, path);
  if (!reading.problems.empty()) return std::nullopt;
  return Good{std::move(reading), static_cast<std::time_t>(*read)};
}

// The absolute path. Empty if it contains a newline, which would end the first line of the copy.
std::string known_path(const std::string& path) {
  std::error_code error;
  std::string whole = std::filesystem::absolute(path, error).string();
  if (error) whole = path;
  return whole.find('\n') == std::string::npos ? whole : std::string{};
}

std::string first_of(const std::vector<std::string>& problems) {
  std::string text = problems.front();
  if (problems.size() > 1) text += fmt::format(" (and {} more: see the log)", problems.size() - 1);
  return text;
}

std::string changed_at(const std::string& path) {
  struct stat st{};
  return ::stat(path.c_str(), &st) == 0 ? shown_time(st.st_mtim.tv_sec) : "an unknown time";
}

void put_directories(const ConfigurationSource& source, policy::Config& config) {
  if (!source.runtime_dir.empty()) config.runtime_dir = source.runtime_dir;
  if (!source.state_dir.empty()) config.state_dir = source.state_dir;
}

void note_overrides(Configuration& result, const std::string& path) {
  for (std::string& line : policy::override_complaints(result.config, path)) {
    result.notices.push_back({"vm-override", std::move(line), std::string(kRemedy)});
  }
}

// The file, with its problems; its text goes to `text`.
Configuration read_file(const ConfigurationSource& source, std::string& text) {
  Configuration result;
  result.source = source;
  const auto file = sys::read_small_file(source.path, policy::kConfigBytesMax);
  if (!file) {
    result.problems.push_back(file.error().text());
  } else if (!*file && source.named) {
    result.problems.push_back(fmt::format("{}: there is no such file", source.path));
  } else {
    text = file->value_or("");
    policy::ConfigReading reading = policy::read_config(text, source.path);
    result.config = std::move(reading.config);
    result.lines = std::move(reading.lines);
    result.problems = std::move(reading.problems);
  }
  put_directories(source, result.config);
  return result;
}

// REQUIRES: the file has no problems.
void keep_good(Configuration& result, const std::string& state_dir, const std::string& text) {
  note_overrides(result, result.source.path);
  const std::string path = known_path(result.source.path);
  const Status kept = sys::replace_file(state_dir, kGoodName,
                                        head_of(path, std::time(nullptr), text.size()) + text);
  if (!kept) {
    result.notices.push_back(
        {"state",
         "the configuration cannot be copied, for use when it is broken: " + kept.error().text(),
         "make state_dir writable"});
  }
}

}  // namespace

Configuration read_configuration(const ConfigurationSource& source, const std::string& state_dir) {
  std::string text;
  Configuration result = read_file(source, text);
  if (result.problems.empty()) keep_good(result, state_dir, text);
  return result;
}

control::Reason not_taken(const Configuration& broken) {
  return {"config",
          fmt::format("the configuration was not taken, and nothing has changed: {}",
                      first_of(broken.problems)),
          std::string(kRemedy)};
}

Configuration load_configuration(const ConfigurationSource& source) {
  std::string text;
  Configuration result = read_file(source, text);
  if (result.problems.empty()) {
    keep_good(result, result.config.state_dir, text);
    return result;
  }
  const std::string problem = first_of(result.problems);
  if (auto good = last_good(result.config.state_dir, known_path(source.path))) {
    result.config = std::move(good->reading.config);
    result.lines = std::move(good->reading.lines);
    put_directories(source, result.config);
    note_overrides(result, source.path);
    result.notices.push_back(
        {"config",
         fmt::format("the configuration is broken since {}: {}; the one that was read at {} is "
                     "used",
                     changed_at(source.path), problem, shown_time(good->read)),
         std::string(kRemedy)});
    return result;
  }
  result.broken = control::Reason{
      "config",
      fmt::format("the configuration is broken since {}, and no good one is known: {}",
                  changed_at(source.path), problem),
      std::string(kRemedy)};
  return result;
}

}  // namespace ramfold::daemon
