// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/groups.hpp"

#include <sys/random.h>
#include <cstring>
#include <new>

#include "base/check.hpp"

namespace ramfold::store {
namespace {

constexpr std::size_t kMax = Contents::kGroupsMax;
constexpr ByteCount kFileBytes{kPageSize + kMax * sizeof(GroupEntry)};

std::uint64_t head_checksum(const GroupsHead& head) noexcept {
  return plain_checksum(
      {reinterpret_cast<const std::byte*>(&head), offsetof(GroupsHead, checksum)});
}
std::uint64_t entry_checksum(const GroupEntry& entry) noexcept {
  const auto* at = reinterpret_cast<const std::byte*>(&entry);
  return plain_checksum({at + sizeof entry.checksum, sizeof entry - sizeof entry.checksum});
}
bool is_sound(const GroupEntry& entry) noexcept {
  return entry.name_length > 0 && entry.name_length <= sizeof entry.name &&
         entry.checksum == entry_checksum(entry);
}

}  // namespace

Result<sys::Fd> GroupTable::make_file(std::uint64_t store_id) {
  auto file = sys::make_memfd("ramfold-groups", kFileBytes, sys::Sealed::yes);
  if (!file) return file;
  auto mapping = sys::Mapping::shared(*file, ByteCount{kPageSize});
  if (!mapping) return std::unexpected(mapping.error());
  auto& head = *mapping->as<GroupsHead>();
  head.magic = kGroupsMagic;
  head.version = kFormatVersion;
  head.groups_max = kMax;
  head.store_id = store_id;
  head.checksum = head_checksum(head);
  head.count.store(self_checked(0), std::memory_order_release);
  return file;
}

Result<std::unique_ptr<GroupTable>> GroupTable::open(sys::BorrowedFd file, std::uint64_t store_id) {
  const auto size = sys::file_size(file);
  if (!size) return std::unexpected(size.error());
  if (*size != kFileBytes) return fail("adopt the store: the groups file has a wrong size", EINVAL);
  auto mapping = sys::Mapping::shared(file, kFileBytes);
  if (!mapping) return std::unexpected(mapping.error());
  const auto& head = *mapping->as<GroupsHead>();
  if (head.magic != kGroupsMagic || head.version != kFormatVersion || head.groups_max != kMax ||
      head.store_id != store_id || head.checksum != head_checksum(head)) {
    return fail("adopt the store: the groups file is not of this store and version", EINVAL);
  }
  const std::uint64_t count = head.count.load(std::memory_order_acquire);
  if (!is_self_checked(count) || static_cast<std::uint32_t>(count) > kMax) {
    return fail("adopt the store: the groups file is damaged", EINVAL);
  }
  auto hashers = sys::Mapping::anonymous(ByteCount{kMax * sizeof(PageHasher)});
  if (!hashers) return std::unexpected(hashers.error());
  return std::unique_ptr<GroupTable>(new GroupTable(std::move(*mapping), std::move(*hashers)));
}

GroupTable::GroupTable(sys::Mapping file, sys::Mapping hashers) noexcept
    : file_(std::move(file)),
      hasher_memory_(std::move(hashers)),
      hashers_(hasher_memory_.as<PageHasher>()) {
  // A damaged entry gets a wrong seed: its contents then read as corrupt, which is what they are.
  const auto count = static_cast<std::uint32_t>(head().count.load(std::memory_order_acquire));
  for (std::uint32_t i = 0; i < count; ++i) new (&hashers_[i]) PageHasher(entries()[i].seed);
  count_.store(count, std::memory_order_release);
}

std::string GroupTable::name(GroupId group) const {
  if (group.value >= count()) return {};
  const GroupEntry& entry = entries()[group.value];
  return is_sound(entry) ? std::string(entry.name, entry.name_length) : std::string();
}

Result<GroupId> GroupTable::find_or_make(std::string_view name) {
  if (name.empty() || name.size() > Contents::kGroupNameMax) {
    return fail("a group's name has 1 to 96 bytes", EINVAL);
  }
  const MutexLock lock(mutex_);
  const std::uint32_t count = this->count();
  for (std::uint32_t i = 0; i < count; ++i) {
    const GroupEntry& entry = entries()[i];
    if (is_sound(entry) && name == std::string_view(entry.name, entry.name_length)) {
      return GroupId{static_cast<std::uint16_t>(i)};
    }
  }
  if (count == kMax) return fail("too many groups", ENOSPC);
  GroupEntry entry{};
  if (::getrandom(&entry.seed, sizeof entry.seed, 0) != sizeof entry.seed) {
    return fail_errno("getrandom");
  }
  entry.name_length = static_cast<std::uint32_t>(name.size());
  std::memcpy(entry.name, name.data(), name.size());
  entry.checksum = entry_checksum(entry);
  std::memcpy(&entries()[count], &entry, sizeof entry);
  new (&hashers_[count]) PageHasher(entry.seed);
  head().count.store(self_checked(count + 1), std::memory_order_release);
  count_.store(count + 1, std::memory_order_release);
  return GroupId{static_cast<std::uint16_t>(count)};
}

}  // namespace ramfold::store
