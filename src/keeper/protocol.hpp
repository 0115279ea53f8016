// SPDX-License-Identifier: GPL-2.0-or-later
// The messages between the daemon and the keeper; docs/keeper-protocol.md has a worked example.
// SOCK_SEQPACKET on a UNIX socket, one message in a packet, little-endian, all padding is a named
// field. Every request has exactly one reply, with the same sequence number. A daemon sends the
// next request after it has read that reply. So neither side ever queues more than one message for
// the other.
//
// The keeper is not restarted with the daemon, so it must understand older and newer daemons. The
// daemon says in `hello` which versions it speaks; the keeper chooses one in `welcome`. An unknown
// type is answered with ENOSYS. Any other message that does not parse ends the connection and
// changes nothing.
//
// Threads: values and pure functions.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string_view>

#include "sys/message.hpp"

namespace ramfold::keeper {

static_assert(std::endian::native == std::endian::little, "the structs below are sent as they lie");

inline constexpr const char* kDefaultSocket = "/run/ramfold/keeper.sock";
inline constexpr std::uint32_t kMagic = 0x314b4652;  // "RFK1" as bytes
inline constexpr std::uint16_t kVersionMin = 1;
inline constexpr std::uint16_t kVersionMax = 1;
inline constexpr std::size_t kNameMax = 64;
inline constexpr std::size_t kTextMax = 160;
// Names in one message; each may come with a descriptor.
inline constexpr std::size_t kBatchMax = sys::kMessageFdsMax;

// Descriptors and watches held at once: 8 for each of 1,000 VMs. The keeper's limit of open files
// must be above this. On a host that needs more, keeping fails with ENOSPC, and what depends on it
// is not folded.
inline constexpr std::size_t kHeldMax = 8192;
// Bytes of all names together, each counted as systemd passes it: kind, dot, name, colon. systemd
// returns them to a restarted keeper in one environment string, and execve(2) takes no string above
// 128 KiB (MAX_ARG_STRLEN). With more bytes the keeper could never be started again.
inline constexpr std::size_t kNameBytesMax = 120'000;

enum class Kind : std::uint8_t {
  kept = 0,   // a descriptor under its name
  watch = 1,  // a pidfd under a prefix: when the process ends, every entry of the prefix is dropped
};

enum class Type : std::uint16_t {
  hello = 1,        // Hello; first on every connection
  keep = 2,         // List, a descriptor for each name: all are kept and acknowledged, or none
  drop = 3,         // List of kept names
  drop_prefix = 4,  // List of one prefix: kept names and watches under it
  take = 5,         // List of one: the last name of the previous chunk, empty at the beginning
  ack = 64,         // Ack
  welcome = 65,     // Welcome
  chunk = 66,       // List, a descriptor for each name; `more`: there are names after the last one
};

struct Header {
  std::uint32_t magic;
  std::uint16_t version;  // of this message; in hello and welcome: kVersionMin of the sender
  std::uint16_t type;
  std::uint32_t length;  // of the whole message
  std::uint32_t sequence;
};
static_assert(sizeof(Header) == 16 && offsetof(Header, type) == 6 &&
              offsetof(Header, sequence) == 12);

struct Hello {
  std::uint16_t version_min;
  std::uint16_t version_max;
  std::int32_t replaces;  // pid of a daemon of which no thread runs any more; 0: none
};
static_assert(sizeof(Hello) == 8);

struct Name {
  std::uint8_t kind;
  std::uint8_t size;
  std::uint16_t reserved;
  std::uint32_t reserved2;
  char text[kNameMax];  // zero behind `size`
};
static_assert(sizeof(Name) == 72 && offsetof(Name, text) == 8);

// Followed by `count` Names.
struct List {
  std::uint32_t count;
  std::uint32_t more;  // 0 or 1, in `chunk` only
};
static_assert(sizeof(List) == 8);

struct Ack {
  std::int32_t code;    // 0 or errno
  std::uint32_t count;  // descriptors that this request kept or dropped
  char text[kTextMax];  // the error and its remedy, zero-terminated
};
static_assert(sizeof(Ack) == 8 + kTextMax);

struct Welcome {
  std::uint16_t version;  // that both sides speak from now on
  std::uint16_t backed;   // 1: systemd's descriptor store holds every entry, too
  std::uint32_t held;
  std::uint32_t held_max;
  std::uint32_t reserved;
};
static_assert(sizeof(Welcome) == 16);

inline constexpr std::size_t kMessageMax = sizeof(Header) + sizeof(List) + kBatchMax * sizeof(Name);
static_assert(kMessageMax <= 4096);
static_assert(sizeof(Header) + sizeof(Ack) <= kMessageMax);
using Buffer = std::array<std::byte, kMessageMax>;

// [a-z0-9._-]{1,64}.
bool valid_name(std::string_view name) noexcept;
// A name that ends in '.', so that "vm1." never means "vm10.ram".
bool valid_prefix(std::string_view name) noexcept;

struct Item {
  Kind kind = Kind::kept;
  std::string_view name;  // points into the message
};

// A message whose lengths, counts, names, reserved fields and descriptors were checked.
struct Parsed {
  Type type{};
  std::uint16_t version = 0;
  std::uint32_t sequence = 0;
  bool known = true;  // false: a type of another version; its body was not parsed
  Hello hello{};
  Welcome welcome{};
  std::int32_t code = 0;
  std::uint32_t acked = 0;
  std::string_view text;
  bool more = false;
  std::size_t count = 0;
  std::array<Item, kBatchMax> items;
};

// `message` must outlive the result. The error says what is wrong with it.
std::expected<Parsed, const char*> parse(std::span<const std::byte> message,
                                         std::size_t fd_count) noexcept;

// Each writes a message to `out` and returns its length in bytes.
std::size_t write_hello(Buffer& out, std::uint32_t sequence, std::int32_t replaces = 0) noexcept;
std::size_t write_welcome(Buffer& out, std::uint32_t sequence, const Welcome& body) noexcept;
std::size_t write_ack(Buffer& out, std::uint32_t sequence, int code, std::size_t count,
                      std::string_view text) noexcept;
// REQUIRES: items.size() <= kBatchMax, each name <= kNameMax.
std::size_t write_list(Buffer& out, Type type, std::uint32_t sequence, std::span<const Item> items,
                       bool more = false) noexcept;

}  // namespace ramfold::keeper
