// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/groups.hpp"

#include <sys/random.h>
#include <cstring>
#include <new>

#include "base/check.hpp"
#include "base/test_points.hpp"

namespace ramfold::store {
namespace {

constexpr ByteCount kFileBytes{kPageSize + kGroupsMax * sizeof(GroupEntry)};

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
bool is_free(const GroupEntry& entry) noexcept {
  static constexpr GroupEntry kFree{};
  return std::memcmp(&entry, &kFree, sizeof entry) == 0;
}
std::string_view name_of(const GroupEntry& entry) noexcept {
  return {entry.name, entry.name_length};
}

// The right checksum makes an entry sound: it is set after the rest was written. The value 0 makes
// it unsound: it is set before the rest is wiped.
void set_checksum(GroupEntry& entry, std::uint64_t checksum) noexcept {
  std::atomic_ref(entry.checksum).store(checksum, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // nothing below may be stored before it
}

}  // namespace

void GroupUse::reset() noexcept {
  if (const auto table = std::exchange(table_, nullptr)) table->release(id_);
}

Result<sys::Fd> GroupTable::make_file(std::uint64_t store_id) {
  auto file = sys::make_memfd("ramfold-groups", kFileBytes, sys::Sealed::yes);
  if (!file) return file;
  auto mapping = sys::Mapping::shared(*file, ByteCount{kPageSize});
  if (!mapping) return std::unexpected(mapping.error());
  auto& head = *mapping->as<GroupsHead>();
  head.magic = kGroupsMagic;
  head.version = kFormatVersion;
  head.groups_max = kGroupsMax;
  head.store_id = store_id;
  head.checksum = head_checksum(head);
  head.limit.store(self_checked(0), std::memory_order_release);
  return file;
}

Result<std::shared_ptr<GroupTable>> GroupTable::open(sys::BorrowedFd file, std::uint64_t store_id) {
  const auto size = sys::file_size(file);
  if (!size) return std::unexpected(size.error());
  if (*size != kFileBytes) return fail("adopt the store: the groups file has a wrong size", EINVAL);
  auto mapping = sys::Mapping::shared(file, kFileBytes);
  if (!mapping) return std::unexpected(mapping.error());
  const auto& head = *mapping->as<GroupsHead>();
  if (head.magic != kGroupsMagic || !is_known_format(head.version) ||
      head.groups_max != kGroupsMax || head.store_id != store_id ||
      head.checksum != head_checksum(head)) {
    return fail("adopt the store: the groups file is not of this store and version", EINVAL);
  }
  const std::uint64_t limit = head.limit.load(std::memory_order_acquire);
  if (!is_self_checked(limit) || static_cast<std::uint32_t>(limit) > kGroupsMax) {
    return fail("adopt the store: the groups file is damaged", EINVAL);
  }
  auto groups = sys::Mapping::anonymous(ByteCount{kGroupsMax * sizeof(Group)});
  if (!groups) return std::unexpected(groups.error());
  auto usage = Usage::make();
  if (!usage) return std::unexpected(usage.error());
  return std::shared_ptr<GroupTable>(
      new GroupTable(std::move(*mapping), std::move(*groups), std::move(*usage)));
}

GroupTable::GroupTable(sys::Mapping file, sys::Mapping groups, Usage usage) noexcept
    : file_(std::move(file)),
      group_memory_(std::move(groups)),
      groups_(group_memory_.as<Group>()),
      usage_(std::move(usage)) {
  // A damaged entry may have a wrong seed. Its contents then read as corrupt.
  const auto limit = static_cast<std::uint32_t>(head().limit.load(std::memory_order_acquire));
  for (std::uint32_t i = 0; i < limit; ++i) {
    if (is_free(entry(i))) continue;
    begin(i);
    found_.push_back(GroupId{static_cast<std::uint16_t>(i)});
  }
  limit_.store(limit, std::memory_order_release);
}

// Makes the group usable, with one use, which belongs to the caller.
void GroupTable::begin(std::uint32_t i) noexcept {
  Group& group = groups_[i];
  new (&group.hasher) PageHasher(entry(i).seed);
  group.uses.store(1, std::memory_order_relaxed);
  group.exists.store(true, std::memory_order_release);
}

void GroupTable::wipe(std::uint32_t i) noexcept {
  Group& group = groups_[i];
  group.exists.store(false, std::memory_order_relaxed);
  set_checksum(entry(i), 0);
  TEST_POINT("store.group.wipe");
  std::memset(&entry(i), 0, sizeof(GroupEntry));
  new (&group.hasher) PageHasher();
  usage_.clear(GroupId{static_cast<std::uint16_t>(i)});
  wiped_.fetch_add(1, std::memory_order_acq_rel);
}

std::string GroupTable::name(GroupId group) const {
  const MutexLock lock(mutex_);
  if (group.value >= limit() || !is_sound(entry(group.value))) return {};
  return std::string(name_of(entry(group.value)));
}

std::optional<std::uint64_t> GroupTable::pool_id(GroupId group) const {
  const MutexLock lock(mutex_);
  if (hasher(group) == nullptr || !is_sound(entry(group.value))) return std::nullopt;
  return entry(group.value).pool_id;
}

Result<GroupId> GroupTable::acquire(std::string_view name) {
  if (name.empty() || name.size() > kGroupNameMax) {
    return fail("a group's name has 1 to 96 bytes", EINVAL);
  }
  GroupEntry made{};
  if (::getrandom(&made.seed, sizeof made.seed, 0) != sizeof made.seed ||
      ::getrandom(&made.pool_id, sizeof made.pool_id, 0) != sizeof made.pool_id) {
    return fail_errno("getrandom");
  }
  made.name_length = static_cast<std::uint32_t>(name.size());
  std::memcpy(made.name, name.data(), name.size());
  const std::uint64_t checksum = entry_checksum(made);

  const MutexLock lock(mutex_);
  const std::uint32_t limit = this->limit();
  std::optional<std::uint32_t> free;
  for (std::uint32_t i = 0; i < limit; ++i) {
    Group& group = groups_[i];
    if (!group.exists.load(std::memory_order_relaxed)) {
      if (!free) free = i;
    } else if (is_sound(entry(i)) && name_of(entry(i)) == name) {
      // If its last use was given up but it is not wiped yet, the group lives on.
      group.uses.fetch_add(1, std::memory_order_relaxed);
      return GroupId{static_cast<std::uint16_t>(i)};
    }
  }
  if (!free) free = limit;
  if (*free == kGroupsMax) return fail("too many groups", ENOSPC);
  GroupEntry& to = entry(*free);
  std::memcpy(&to, &made, sizeof made);  // its checksum is still 0
  TEST_POINT("store.group.write");
  set_checksum(to, checksum);
  begin(*free);
  if (*free == limit) {
    head().limit.store(self_checked(limit + 1), std::memory_order_release);
    limit_.store(limit + 1, std::memory_order_release);
  }
  TEST_POINT("store.group.made");
  return GroupId{static_cast<std::uint16_t>(*free)};
}

bool GroupTable::add_use(GroupId group) noexcept {
  if (group.value >= kGroupsMax) return false;
  auto& uses = groups_[group.value].uses;
  std::uint64_t seen = uses.load(std::memory_order_relaxed);
  do {
    if (seen == 0) return false;
  } while (!uses.compare_exchange_weak(seen, seen + 1, std::memory_order_relaxed));
  return true;
}

void GroupTable::release(GroupId group) noexcept {
  Group& g = groups_[group.value];
  if (g.uses.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // Before the lock was taken, the group may have been acquired again, or even wiped and made anew
  // under the same id. So its state is read again.
  const MutexLock lock(mutex_);
  if (closed_ || g.uses.load(std::memory_order_acquire) != 0) return;
  if (g.exists.load(std::memory_order_relaxed)) wipe(group.value);
}

void GroupTable::end_recovery(const Uncounted& uncounted) noexcept {
  std::erase_if(found_, [&](GroupId group) {
    if (uncounted.covers(group)) return false;
    release(group);
    return true;
  });
}

void GroupTable::close() noexcept {
  const MutexLock lock(mutex_);
  closed_ = true;
}

}  // namespace ramfold::store
