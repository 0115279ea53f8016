// SPDX-License-Identifier: GPL-2.0-or-later
// The keeper's parser. Input: a byte with the number of descriptors and whether to repair the
// header's magic and length (so that random bytes get further), then the message. Whatever is
// accepted must, with its own writer, become the same bytes again: nothing was read into it that is
// not there.
#include <algorithm>
#include <cstring>
#include <memory>

#include "base/check.hpp"
#include "keeper/protocol.hpp"

using namespace ramfold::keeper;

namespace {

constexpr std::uint8_t kRepair = 0x80;

void require_same(std::span<const std::byte> message, const Parsed& parsed) {
  Buffer out{};
  const std::span<const Item> items(parsed.items.data(), parsed.count);
  std::size_t length = 0;
  switch (parsed.type) {
    case Type::hello:
      if (parsed.hello.version_min != kVersionMin || parsed.hello.version_max != kVersionMax)
        return;
      if (parsed.hello.replaces != 0) return;
      length = write_hello(out, parsed.sequence);
      break;
    case Type::welcome: length = write_welcome(out, parsed.sequence, parsed.welcome); break;
    case Type::ack: return;  // its text may be padded with anything
    default: length = write_list(out, parsed.type, parsed.sequence, items, parsed.more);
  }
  if (parsed.version != kVersionMin) return;
  ENSURE(length == message.size());
  ENSURE(std::ranges::equal(std::span(out).first(length), message));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  // Exactly its size on the heap, so that AddressSanitizer sees a byte too many.
  const std::size_t length = size - 1;
  std::unique_ptr<std::byte[]> copy(new std::byte[length]);
  std::memcpy(copy.get(), data + 1, length);
  if ((data[0] & kRepair) != 0 && length >= sizeof(Header)) {
    const auto stated = static_cast<std::uint32_t>(length);
    std::memcpy(copy.get(), &kMagic, sizeof kMagic);
    std::memcpy(copy.get() + offsetof(Header, length), &stated, sizeof stated);
  }
  const std::span<const std::byte> message(copy.get(), length);
  const auto parsed = parse(message, data[0] & ~kRepair);
  if (!parsed || !parsed->known) return 0;
  ENSURE(parsed->count <= kBatchMax);
  for (const Item& item : std::span(parsed->items).first(parsed->count)) {
    const bool start = parsed->type == Type::take && item.name.empty();
    ENSURE(start || (item.kind == Kind::watch ? valid_prefix(item.name) : valid_name(item.name)));
  }
  require_same(message, *parsed);
  return 0;
}
