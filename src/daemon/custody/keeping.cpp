// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/keeping.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>

#include "store/contents.hpp"
#include "sys/message.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::string_view kStorePrefix = "store.";
constexpr std::string_view kVmPrefix = "vm.";
constexpr std::size_t kStoreParts = 3;

std::string vm_prefix(VmId id) { return fmt::format("vm.{}.", id.value); }

// The record first, as it came last: a keeper that is killed in between leaves its service manager
// a VM without one, which the next daemon drops, and not one that it can neither read nor drop.
Status drop_parts(keeper::Client& client, VmId id) {
  if (Status dropped = client.drop(vm_prefix(id) + "record"); !dropped) return dropped;
  return client.drop_prefix(vm_prefix(id));
}

// "vm.12.ram0" -> 12 and "ram0".
std::optional<std::pair<std::uint32_t, std::string_view>> split_vm(std::string_view name) {
  if (!name.starts_with(kVmPrefix)) return std::nullopt;
  name.remove_prefix(kVmPrefix.size());
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return std::pair{
      id, std::string_view(end + 1, static_cast<std::size_t>(name.data() + name.size() - end - 1))};
}

using Named = std::map<std::string, sys::Fd, std::less<>>;

Result<KeptVm> assemble(Named& parts) {
  const auto take = [&](std::string_view name) -> sys::Fd {
    const auto it = parts.find(name);
    return it == parts.end() ? sys::Fd{} : std::move(it->second);
  };
  KeptVm vm;
  vm.files.record = take("record");
  auto record = guest::read_record(vm.files.record);
  if (!record) return std::unexpected(record.error());
  vm.record = *record;
  vm.files.uffd = take("uffd");
  vm.files.words = take("words");
  vm.files.shared = take("shared");
  vm.files.pidfd = take("pidfd");
  bool complete = vm.files.uffd && vm.files.words && vm.files.shared && vm.files.pidfd;
  for (std::uint32_t i = 0; i < vm.record.blocks; ++i) {
    vm.files.rams.push_back(take(fmt::format("ram{}", i)));
    complete = complete && vm.files.rams.back();
  }
  if (!complete) return fail("descriptors are missing beside its record");
  return vm;
}

}  // namespace

Status Keeping::connect() {
  const std::lock_guard lock(mutex_);
  if (client_ && client_->alive()) return {};
  client_.reset();
  auto client = keeper::Client::connect(socket_, keeper::Client::kAnswerWithin, replaces_);
  if (!client) return std::unexpected(client.error());
  client_.emplace(std::move(*client));
  store_kept_ = false;
  vms_kept_.clear();
  anothers_store_ = false;
  if (!store_handed_over_) {
    const auto kept = client_->take_all();
    if (!kept) return std::unexpected(kept.error());
    anothers_store_ = std::ranges::any_of(
        *kept, [](const keeper::Kept& k) { return k.name.starts_with(kStorePrefix); });
  }
  // What it has under the numbers of our VMs is then another's.
  if (anothers_store_) vms_to_drop_.clear();
  // Its service manager gave it back all that it had held.
  while (!vms_to_drop_.empty()) {
    const std::uint32_t id = *vms_to_drop_.begin();
    if (Status dropped = drop_parts(*client_, VmId{id}); !dropped) return dropped;
    vms_to_drop_.erase(id);
  }
  return {};
}

void Keeping::disconnect() {
  const std::lock_guard lock(mutex_);
  client_.reset();
}

bool Keeping::connected() const {
  const std::lock_guard lock(mutex_);
  return client_ && client_->alive();
}

bool Keeping::holds_anothers_store() const {
  const std::lock_guard lock(mutex_);
  return client_ && client_->alive() && anothers_store_;
}

bool Keeping::backed() const {
  const std::lock_guard lock(mutex_);
  return client_ && client_->alive() && client_->backed();
}

std::uint64_t Keeping::held() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t held = store_kept_ ? kStoreParts : 0;
  for (const auto& [id, descriptors] : vms_kept_) held += descriptors;
  return held;
}

pid_t Keeping::keeper_pid() const {
  const std::lock_guard lock(mutex_);
  if (!client_ || !client_->alive()) return -1;
  const auto peer = sys::peer_of(client_->socket());
  return peer ? peer->pid : -1;
}

Status Keeping::call(auto&& request) {
  const std::lock_guard lock(mutex_);
  if (!client_ || !client_->alive())
    return fail("the keeper is not connected: start ramfold-keeper", ENOTCONN);
  return request(*client_);
}

Result<Inheritance> Keeping::inherit() {
  std::vector<keeper::Kept> all;
  const Status taken = call([&](keeper::Client& client) -> Status {
    auto kept = client.take_all();
    if (!kept) return std::unexpected(kept.error());
    all = std::move(*kept);
    return {};
  });
  if (!taken) return std::unexpected(taken.error());
  Inheritance result;
  Named store_parts;
  std::map<std::uint32_t, Named> vms;
  for (keeper::Kept& kept : all) {
    const std::string_view name = kept.name;
    if (name.starts_with(kStorePrefix)) {
      store_parts[std::string(name.substr(kStorePrefix.size()))] = std::move(kept.fd);
    } else if (kept.kind == keeper::Kind::watch) {
      const auto vm = split_vm(std::string(name) + "pidfd");
      if (vm) vms[vm->first]["pidfd"] = std::move(kept.fd);
    } else if (const auto vm = split_vm(name)) {
      vms[vm->first][std::string(vm->second)] = std::move(kept.fd);
    }
  }
  const auto part = [&](const char* name) { return store_parts.find(name); };
  const bool store = part("contents") != store_parts.end() && part("arena") != store_parts.end() &&
                     part("groups") != store_parts.end();
  if (store) {
    result.store.emplace(store::StoreFiles{std::move(part("contents")->second),
                                           std::move(part("arena")->second),
                                           std::move(part("groups")->second)});
  }
  {
    const std::lock_guard lock(mutex_);
    anothers_store_ = false;
    store_kept_ = store;
    store_handed_over_ = !store_parts.empty();
    for (const auto& [id, parts] : vms) vms_kept_[id] = parts.size();
  }
  if (!vms.empty()) result.last = VmId{vms.rbegin()->first};
  for (auto& [id, parts] : vms) {
    if (!parts.contains("record")) {
      result.dropped.push_back(fmt::format("vm {}: its hand-over never ended", id));
      (void)drop_vm(VmId{id});
      continue;
    }
    sys::Fd pidfd;
    if (const auto watch = parts.find("pidfd"); watch != parts.end()) {
      if (auto copy = watch->second.duplicate()) pidfd = std::move(*copy);
    }
    auto vm = assemble(parts);
    if (vm && vm->record.vm == id) {
      result.vms.push_back(std::move(*vm));
    } else {
      result.unusable.push_back(
          {VmId{id}, vm ? "its record is another's" : vm.error().text(), std::move(pidfd), {}});
    }
  }
  return result;
}

Status Keeping::keep_store(keeper::Client& client, const store::Contents& contents) {
  if (store_kept_) return {};
  const store::StoreFiles& files = contents.files();
  const std::array set{keeper::Keep{"store.contents", files.contents},
                       keeper::Keep{"store.arena", files.arena},
                       keeper::Keep{"store.groups", files.groups}};
  static_assert(set.size() == kStoreParts);
  store_handed_over_ = true;
  const Status kept = client.keep_together(set);
  store_kept_ = kept.has_value();
  return kept;
}

Status Keeping::keep_vm(const guest::Vm& vm, const store::Contents& contents) {
  return call([&](keeper::Client& client) -> Status {
    if (anothers_store_) return fail("the keeper holds another daemon's store", EBUSY);
    if (Status kept = keep_store(client, contents); !kept) return kept;
    const guest::Vm::Files& files = vm.files();
    const std::string prefix = vm_prefix(vm.id());
    const std::string uffd = prefix + "uffd";
    const std::string words = prefix + "words";
    const std::string shared = prefix + "shared";
    const std::string record = prefix + "record";
    std::vector<std::string> rams;
    rams.reserve(files.rams.size());
    for (std::size_t i = 0; i < files.rams.size(); ++i)
      rams.push_back(fmt::format("{}ram{}", prefix, i));
    std::vector<keeper::Keep> set{{uffd, files.uffd}, {words, files.words}, {shared, files.shared}};
    for (std::size_t i = 0; i < rams.size(); ++i) set.push_back({rams[i], files.rams[i]});
    set.push_back({prefix, files.pidfd, keeper::Kind::watch});
    // Entered before it is tried: a call that fails half-way leaves something there.
    vms_kept_[vm.id().value] = set.size() + 1;
    if (Status kept = client.keep_together(set); !kept) return kept;
    return client.keep(record, files.record);
  });
}

Status Keeping::drop_vm(VmId id) {
  const std::lock_guard lock(mutex_);
  if (anothers_store_) return {};
  Status dropped = fail("the keeper is not connected", ENOTCONN);
  if (client_ && client_->alive()) dropped = drop_parts(*client_, id);
  if (dropped) {
    vms_kept_.erase(id.value);
  } else {
    vms_to_drop_.insert(id.value);
  }
  return dropped;
}

Status Keeping::drop_store() {
  {
    const std::lock_guard lock(mutex_);
    if (!store_handed_over_) return {};
  }
  if (Status connected = connect(); !connected) return connected;
  return call([&](keeper::Client& client) -> Status {
    if (!vms_kept_.empty() || !vms_to_drop_.empty()) {
      return fail("the keeper holds VMs whose pages may be in the store", EBUSY);
    }
    store_kept_ = false;
    Status dropped = client.drop_prefix(kStorePrefix);
    store_handed_over_ = !dropped;
    return dropped;
  });
}

}  // namespace ramfold::daemon
