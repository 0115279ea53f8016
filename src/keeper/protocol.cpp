// SPDX-License-Identifier: GPL-2.0-or-later
#include "keeper/protocol.hpp"

#include <algorithm>
#include <cstring>

#include "base/check.hpp"

namespace ramfold::keeper {
namespace {

// REQUIRES: offset + sizeof(T) <= from.size().
template <typename T>
T load(std::span<const std::byte> from, std::size_t offset) noexcept {
  ENSURE(offset + sizeof(T) <= from.size());
  T value;
  std::memcpy(&value, from.data() + offset, sizeof value);
  return value;
}

template <typename T>
void store(Buffer& to, std::size_t offset, const T& value) noexcept {
  ENSURE(offset + sizeof(T) <= to.size());
  std::memcpy(to.data() + offset, &value, sizeof value);
}

std::size_t finish(Buffer& out, Type type, std::uint32_t sequence, std::size_t body) noexcept {
  const std::size_t length = sizeof(Header) + body;
  store(out, 0,
        Header{kMagic, kVersionMin, static_cast<std::uint16_t>(type),
               static_cast<std::uint32_t>(length), sequence});
  return length;
}

// The names that a message of a type may carry.
struct Shape {
  std::size_t count_min, count_max;
  bool descriptors;  // one for each name
  bool watches;      // Kind::watch is allowed
};

std::optional<Shape> shape_of(Type type) noexcept {
  switch (type) {
    case Type::keep: return Shape{1, kBatchMax, true, true};
    case Type::drop: return Shape{1, kBatchMax, false, false};
    case Type::drop_prefix: return Shape{1, 1, false, false};
    case Type::take: return Shape{1, 1, false, true};
    case Type::chunk: return Shape{0, kBatchMax, true, true};
    default: return std::nullopt;
  }
}

const char* check_name(const Name& raw, Type type, std::string_view name, bool watches) noexcept {
  if (raw.kind > static_cast<std::uint8_t>(Kind::watch)) return "unknown kind of name";
  const bool watch = raw.kind == static_cast<std::uint8_t>(Kind::watch);
  if (watch && !watches) return "a watch where none is allowed";
  if (raw.reserved != 0 || raw.reserved2 != 0) return "reserved bytes of a name are not zero";
  if (std::any_of(raw.text + name.size(), raw.text + kNameMax, [](char c) { return c != 0; })) {
    return "bytes behind a name are not zero";
  }
  if (type == Type::take && name.empty()) return nullptr;
  if (type == Type::drop_prefix || watch) {
    return valid_prefix(name) ? nullptr : "a prefix is a name that ends in '.'";
  }
  return valid_name(name) ? nullptr : "a name has 1 to 64 of a-z 0-9 . _ -";
}

const char* parse_list(std::span<const std::byte> message, std::size_t fd_count, const Shape& shape,
                       Parsed& out) noexcept {
  if (message.size() < sizeof(Header) + sizeof(List)) return "list cut short";
  const auto list = load<List>(message, sizeof(Header));
  if (list.count < shape.count_min || list.count > shape.count_max) return "count out of range";
  if (message.size() != sizeof(Header) + sizeof(List) + list.count * sizeof(Name)) {
    return "length does not match the count";
  }
  if (list.more > (out.type == Type::chunk ? 1u : 0u)) return "reserved field is not zero";
  if (fd_count != (shape.descriptors ? list.count : 0)) return "descriptors do not match the count";
  for (std::size_t i = 0; i < list.count; ++i) {
    const std::size_t at = sizeof(Header) + sizeof(List) + i * sizeof(Name);
    const auto raw = load<Name>(message, at);
    if (raw.size > kNameMax) return "name too long";
    const auto* text = reinterpret_cast<const char*>(message.data() + at + offsetof(Name, text));
    const std::string_view name(text, raw.size);
    if (const char* wrong = check_name(raw, out.type, name, shape.watches)) return wrong;
    out.items[i] = Item{static_cast<Kind>(raw.kind), name};
  }
  out.count = list.count;
  out.more = list.more != 0;
  return nullptr;
}

const char* parse_fixed(std::span<const std::byte> message, Parsed& out) noexcept {
  const std::size_t body = message.size() - sizeof(Header);
  switch (out.type) {
    case Type::hello:
      if (body != sizeof(Hello)) return "hello of a wrong length";
      out.hello = load<Hello>(message, sizeof(Header));
      return out.hello.version_min <= out.hello.version_max ? nullptr : "hello without a version";
    case Type::welcome:
      if (body != sizeof(Welcome)) return "welcome of a wrong length";
      out.welcome = load<Welcome>(message, sizeof(Header));
      return nullptr;
    case Type::ack: {
      if (body != sizeof(Ack)) return "ack of a wrong length";
      const auto ack = load<Ack>(message, sizeof(Header));
      out.code = ack.code;
      out.acked = ack.count;
      const auto* text =
          reinterpret_cast<const char*>(message.data() + sizeof(Header) + offsetof(Ack, text));
      out.text = std::string_view(text, ::strnlen(text, kTextMax));
      return nullptr;
    }
    default: out.known = false; return nullptr;
  }
}

}  // namespace

bool valid_name(std::string_view name) noexcept {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kNameMax && std::ranges::all_of(name, allowed);
}

bool valid_prefix(std::string_view name) noexcept { return valid_name(name) && name.back() == '.'; }

std::expected<Parsed, const char*> parse(std::span<const std::byte> message,
                                         std::size_t fd_count) noexcept {
  if (message.size() < sizeof(Header)) return std::unexpected("shorter than a header");
  const auto header = load<Header>(message, 0);
  if (header.magic != kMagic) return std::unexpected("not a keeper message");
  if (header.length != message.size()) return std::unexpected("length does not match the packet");
  Parsed out;
  out.type = static_cast<Type>(header.type);
  out.version = header.version;
  out.sequence = header.sequence;
  const std::optional<Shape> shape = shape_of(out.type);
  const char* wrong =
      shape ? parse_list(message, fd_count, *shape, out) : parse_fixed(message, out);
  if (wrong == nullptr && !shape && out.known && fd_count != 0) wrong = "unexpected descriptors";
  if (wrong != nullptr) return std::unexpected(wrong);
  return out;
}

std::size_t write_hello(Buffer& out, std::uint32_t sequence, std::int32_t replaces) noexcept {
  store(out, sizeof(Header), Hello{kVersionMin, kVersionMax, replaces});
  return finish(out, Type::hello, sequence, sizeof(Hello));
}

std::size_t write_welcome(Buffer& out, std::uint32_t sequence, const Welcome& body) noexcept {
  store(out, sizeof(Header), body);
  return finish(out, Type::welcome, sequence, sizeof(Welcome));
}

std::size_t write_ack(Buffer& out, std::uint32_t sequence, int code, std::size_t count,
                      std::string_view text) noexcept {
  Ack ack{};
  ack.code = code;
  ack.count = static_cast<std::uint32_t>(count);
  std::ranges::copy(text.substr(0, kTextMax - 1), ack.text);
  store(out, sizeof(Header), ack);
  return finish(out, Type::ack, sequence, sizeof(Ack));
}

std::size_t write_list(Buffer& out, Type type, std::uint32_t sequence, std::span<const Item> items,
                       bool more) noexcept {
  ENSURE(items.size() <= kBatchMax);
  store(out, sizeof(Header), List{static_cast<std::uint32_t>(items.size()), more ? 1u : 0u});
  std::size_t at = sizeof(Header) + sizeof(List);
  for (const Item& item : items) {
    ENSURE(item.name.size() <= kNameMax);
    Name name{};
    name.kind = static_cast<std::uint8_t>(item.kind);
    name.size = static_cast<std::uint8_t>(item.name.size());
    std::ranges::copy(item.name, name.text);
    store(out, at, name);
    at += sizeof(Name);
  }
  return finish(out, type, sequence, at - sizeof(Header));
}

}  // namespace ramfold::keeper
