// SPDX-License-Identifier: GPL-2.0-or-later
// Strong types that cross module boundaries. No bare integer does.
// Threads: values, no shared state.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace ramfold {

inline constexpr std::size_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;

// A tagged integer: same size and speed as Rep, no implicit conversions, ordered and hashable.
template <typename Tag, typename RepT>
struct Strong {
  using Rep = RepT;
  Rep value{};

  constexpr Strong() noexcept = default;
  constexpr explicit Strong(Rep v) noexcept : value(v) {}
  friend constexpr auto operator<=>(const Strong&, const Strong&) noexcept = default;
};

// A page of one VM: index over all its RAM blocks laid end to end, in page units.
using PageIndex = Strong<struct PageIndexTag, std::uint64_t>;
using PageCount = Strong<struct PageCountTag, std::uint64_t>;
using ByteCount = Strong<struct ByteCountTag, std::uint64_t>;
// A virtual address inside QEMU. Never dereferenced by the daemon.
using HostVirt = Strong<struct HostVirtTag, std::uint64_t>;
// One attached VM. A number is used again only when the keeper holds nothing of the VM that had it.
using VmId = Strong<struct VmIdTag, std::uint32_t>;
// A content of the store: one distinct page value. Content 0 is the page of zeros; it has no bytes.
using ContentId = Strong<struct ContentIdTag, std::uint32_t>;
inline constexpr ContentId kZeroContent{0};
// XXH3-64 of 4096 bytes, seeded by the group: comparable within one group only.
using ContentHash = Strong<struct ContentHashTag, std::uint64_t>;
// A trust domain; contents and references never cross groups.
using GroupId = Strong<struct GroupIdTag, std::uint16_t>;

constexpr PageIndex operator+(PageIndex p, PageCount n) noexcept {
  return PageIndex{p.value + n.value};
}
constexpr ByteCount bytes(PageCount n) noexcept { return ByteCount{n.value << kPageShift}; }

// Pages [first, first + count) of one VM.
struct PageRun {
  PageIndex first;
  PageCount count;

  constexpr PageIndex end() const noexcept { return first + count; }
  friend constexpr bool operator==(const PageRun&, const PageRun&) noexcept = default;
};

}  // namespace ramfold

template <typename Tag, typename Rep>
struct std::hash<ramfold::Strong<Tag, Rep>> {
  std::size_t operator()(const ramfold::Strong<Tag, Rep>& s) const noexcept {
    return std::hash<Rep>{}(s.value);
  }
};
