// SPDX-License-Identifier: GPL-2.0-or-later
// The output of every bench program: rows with medians over repeats; floor and peer are measured in
// the same run. `bench/run` turns the JSON into a table. A goal is "ours <= limit"; a row without
// one is for reading.
// Threads: one.
#pragma once

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ramfold::bench {

inline double median(std::vector<double> v) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v.size() % 2 != 0 ? v[v.size() / 2] : (v[v.size() / 2 - 1] + v[v.size() / 2]) / 2;
}
inline double quantile(std::vector<double> v, double q) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, static_cast<std::size_t>(q * static_cast<double>(v.size())))];
}
// Distance of the quartiles in per cent of the median.
inline double spread_percent(const std::vector<double>& v) {
  const double m = median(v);
  return m == 0 ? 0 : (quantile(v, 0.75) - quantile(v, 0.25)) / m * 100;
}
// Median of a[i] / b[i]: what shared machines leave to believe in.
inline double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> r;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (b[i] != 0) r.push_back(a[i] / b[i]);
  }
  return median(std::move(r));
}

struct Row {
  std::string what;
  std::string unit;
  std::vector<double> floor;  // one figure a repeat
  std::vector<double> ours;
  std::vector<double> peer;
  std::string goal;             // in words
  std::optional<bool> ok = {};  // absent: no goal
};

class Report {
 public:
  explicit Report(std::string name) : name_(std::move(name)) {}
  void add(Row row) { rows_.push_back(std::move(row)); }
  // 1 when a row misses its goal.
  int print() const {
    bool good = true;
    std::printf("{\"name\": \"%s\", \"rows\": [", name_.c_str());
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Row& r = rows_[i];
      std::printf("%s\n  {\"what\": \"%s\", \"unit\": \"%s\"", i == 0 ? "" : ",", r.what.c_str(),
                  r.unit.c_str());
      figure("floor", r.floor);
      figure("ours", r.ours);
      figure("peer", r.peer);
      std::printf(", \"ratio\": %.3f, \"spread_percent\": %.1f, \"goal\": \"%s\", \"ok\": %s}",
                  r.floor.empty() ? 0 : median_ratio(r.ours, r.floor), spread_percent(r.ours),
                  r.goal.c_str(),
                  !r.ok   ? "null"
                  : *r.ok ? "true"
                          : "false");
      good = good && r.ok.value_or(true);
    }
    std::printf("\n]}\n");
    return good ? 0 : 1;
  }

 private:
  static void figure(const char* key, const std::vector<double>& v) {
    if (v.empty()) {
      std::printf(", \"%s\": null", key);
    } else {
      std::printf(", \"%s\": %.4g", key, median(v));
    }
  }
  std::string name_;
  std::vector<Row> rows_;
};

}  // namespace ramfold::bench
