// SPDX-License-Identifier: GPL-2.0-or-later
// How a struct describes its members. Beside the struct stands one function. It is the only place
// that gives a member its exported name:
//
//   struct CacheCounters {
//     Counter hits;
//     Counter entries;
//   };
//   template <typename V, ConstOr<CacheCounters> S>
//   constexpr void visit(V& v, S& s) {
//     v(counter("cache_hits", "Reads that the cache answered."), s.hits);
//     v(gauge("cache_entries", "Entries in the cache now."), s.entries);
//   }
//
// A visitor has up to three members:
//   operator()(Metric, member)       one member
//   derived(Metric, function)        a value that the function computes from members; it is written
//                                    and never read back
//   elsewhere(members...)            members that another description tells
// Code that walks a struct says static_assert(kVisitsAll<S>): a description that leaves a member
// out does not compile.
// Threads: values and pure functions.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace ramfold {

enum class MetricKind : std::uint8_t {
  none,     // no figure: a text, an enumerator, an identity, a struct or a list of them
  counter,  // events since the daemon's start; it never falls while the daemon runs
  gauge,    // an amount now
  latency,  // durations of events
};

struct Metric {
  std::string_view name;  // as exported: [a-z0-9_], its unit last
  MetricKind kind = MetricKind::none;
  std::string_view help;  // one sentence; empty where the kind is none
};

constexpr Metric counter(std::string_view name, std::string_view help) noexcept {
  return {name, MetricKind::counter, help};
}
constexpr Metric gauge(std::string_view name, std::string_view help) noexcept {
  return {name, MetricKind::gauge, help};
}
constexpr Metric latency(std::string_view name, std::string_view help) noexcept {
  return {name, MetricKind::latency, help};
}
constexpr Metric named(std::string_view name) noexcept { return {name, MetricKind::none, {}}; }

constexpr std::string_view name_of(MetricKind kind) noexcept {
  switch (kind) {
    case MetricKind::none: return "none";
    case MetricKind::counter: return "counter";
    case MetricKind::gauge: return "gauge";
    case MetricKind::latency: return "latency";
  }
  return "?";
}

template <typename S, typename T>
concept ConstOr = std::same_as<std::remove_const_t<S>, T>;

namespace detail {

struct Anything {
  template <typename T>
  operator T() const noexcept;  // never called: it stands for a member's initializer
};

template <typename S, typename... Given>
consteval std::size_t member_count() noexcept {
  if constexpr (requires { S{Given{}..., Anything{}}; }) {
    return member_count<S, Given..., Anything>();
  } else {
    return sizeof...(Given);
  }
}

struct Counting {
  std::size_t count = 0;
  template <typename T>
  constexpr void operator()(const Metric&, const T&) noexcept {
    ++count;
  }
  template <typename F>
  constexpr void derived(const Metric&, const F&) noexcept {}
  template <typename... T>
  constexpr void elsewhere(const T&...) noexcept {
    count += sizeof...(T);
  }
};

// An S that is never made: its members are named, not read.
template <typename S>
union Unmade {
  char none = 0;
  S s;
  constexpr Unmade() noexcept {}
  constexpr ~Unmade() {}
};

template <typename S>
consteval std::size_t visited_count() noexcept {
  Unmade<S> unmade;
  Counting counting;
  visit(counting, unmade.s);
  return counting.count;
}

}  // namespace detail

// S: an aggregate without base classes.
template <typename S>
inline constexpr bool kVisitsAll = detail::visited_count<S>() == detail::member_count<S>();

}  // namespace ramfold
