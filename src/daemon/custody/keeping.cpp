// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/keeping.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <algorithm>
#include <charconv>

#include "base/clock.hpp"
#include "base/owner_share.hpp"
#include "sys/message.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::string_view kStorePrefix = "store.";
constexpr std::string_view kVmPrefix = "vm.";
constexpr std::size_t kStoreParts = 3;
constexpr auto kNobody = static_cast<uid_t>(-1);

constexpr std::uint64_t kSilentNapNs = 100'000'000;

// True if connect() failed but a keeper exists and may answer later: it is stopped or slow, it is
// just ending or starting, or a daemon that is ending is still connected to it.
bool may_answer_yet(const Error& error) {
  return error.code == ETIMEDOUT || error.code == EBUSY || error.code == EPIPE ||
         error.code == ECONNRESET || error.code == EAGAIN;
}

std::string vm_prefix(VmId id) { return fmt::format("vm.{}.", id.value); }

// Drops the record first, because it was stored last. If the keeper is killed in between, its
// service manager has a VM without a record, which the next daemon drops. A record without the
// other parts could neither be served nor dropped.
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

// Whether the keeper holds a descriptor whose name begins so.
Result<bool> holds_any(keeper::Client& client, std::string_view prefix) {
  const auto all = client.take_all();
  if (!all) return std::unexpected(all.error());
  return std::ranges::any_of(
      *all, [prefix](const keeper::Kept& kept) { return kept.name.starts_with(prefix); });
}

}  // namespace

bool Keeping::Known::connected() const noexcept {
  if (!socket) return false;
  pollfd p{socket->get(), POLLRDHUP, 0};  // not POLLIN: an unread answer does not mean the end
  return ::poll(&p, 1, 0) == 0;
}

void Keeping::publish() {
  Known now;
  if (client_ && client_->alive()) {
    now.socket = watched_;
    const auto peer = sys::peer_of(client_->socket());
    now.keeper = peer ? peer->pid : -1;
    now.backed = client_->backed();
    now.anothers_store = anothers_store_;
  } else {
    watched_.reset();
  }
  now.held = (store_kept_ ? kStoreParts : 0) + pools_.size();
  for (const auto& [id, places] : vms_kept_) now.held += places.descriptors;
  const MutexLock lock(known_mutex_);
  std::swap(known_, now);
}

Status Keeping::connect() {
  const Working working(*this);
  if (client_ && client_->alive()) return {};
  client_.reset();
  publish();  // closes the copy of the socket: for the keeper it would be a second daemon
  auto client = keeper::Client::connect(socket_, keeper::Client::kAnswerWithin, replaces_);
  silent_ = !client && may_answer_yet(client.error());
  if (!client) return std::unexpected(client.error());
  sys::Fd watched(::fcntl(client->socket().get(), F_DUPFD_CLOEXEC, 0));
  if (!watched) return fail_errno("watch the keeper's socket");
  client_.emplace(std::move(*client));
  watched_ = std::make_shared<const sys::Fd>(std::move(watched));
  store_kept_ = false;
  vms_kept_.clear();
  pools_.new_connection();
  anothers_store_ = false;
  if (!store_handed_over_) {
    const auto has_store = holds_any(*client_, kStorePrefix);
    if (!has_store) return std::unexpected(has_store.error());
    anothers_store_ = *has_store;
  }
  // Then the keeper's VMs with these numbers belong to the earlier daemon.
  if (anothers_store_) vms_to_drop_.clear();
  // Drops VMs that left while the keeper was away: its service manager has given them back to it.
  while (!vms_to_drop_.empty()) {
    const std::uint32_t id = *vms_to_drop_.begin();
    if (Status dropped = drop_parts(*client_, VmId{id}); !dropped) return dropped;
    vms_to_drop_.erase(id);
  }
  return {};
}

Status Keeping::connect_patiently(std::uint64_t patience_ns, const std::function<void()>& waits) {
  const std::uint64_t until_ns = monotonic_ns() + patience_ns;
  for (bool first = true;; first = false) {
    Status connected = connect();
    if (connected || !silent()) return connected;
    if (first) waits();
    if (monotonic_ns() >= until_ns) return connected;
    sleep_ns(kSilentNapNs);
  }
}

bool Keeping::silent() const { return silent_; }

void Keeping::disconnect() {
  const Working working(*this);
  client_.reset();
}

bool Keeping::connected() const {
  const MutexLock lock(known_mutex_);
  return known_.connected();
}

bool Keeping::holds_anothers_store() const {
  const MutexLock lock(known_mutex_);
  return known_.connected() && known_.anothers_store;
}

bool Keeping::backed() const {
  const MutexLock lock(known_mutex_);
  return known_.connected() && known_.backed;
}

std::uint64_t Keeping::held() const {
  const MutexLock lock(known_mutex_);
  return known_.held;
}

pid_t Keeping::keeper_pid() const {
  const MutexLock lock(known_mutex_);
  return known_.connected() ? known_.keeper : -1;
}

Status Keeping::call(auto&& request) {
  const Working working(*this);
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
  std::vector<store::PoolFile> pools;
  std::map<std::uint32_t, Named> vms;
  for (keeper::Kept& kept : all) {
    const std::string_view name = kept.name;
    if (name.starts_with(kStorePrefix)) {
      store_parts[std::string(name.substr(kStorePrefix.size()))] = std::move(kept.fd);
    } else if (name.starts_with(KeptPools::kPrefix)) {
      if (auto pool = KeptPools::parse(name, std::move(kept.fd))) pools.push_back(std::move(*pool));
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
    const Working working(*this);
    anothers_store_ = false;
    store_kept_ = store;
    store_handed_over_ = !store_parts.empty();
    if (Status noted = note_pools(pools, store); !noted) return std::unexpected(noted.error());
    for (const auto& [id, parts] : vms) {
      Places& places = vms_kept_[id];
      places = {parts.size(), 0, kNobody};
      for (const auto& [name, fd] : parts) places.bytes += stored_bytes(vm_prefix(VmId{id}) + name);
    }
  }
  if (store) result.store->pools = std::move(pools);
  if (!vms.empty()) result.last = VmId{vms.rbegin()->first};
  for (auto& [id, parts] : vms) {
    if (!parts.contains("record")) {
      result.dropped.push_back(
          fmt::format("vm {}: its hand-over to the keeper was not complete", id));
      (void)drop_vm(VmId{id});
      continue;
    }
    sys::Fd pidfd;
    if (const auto watch = parts.find("pidfd"); watch != parts.end()) {
      if (auto copy = watch->second.duplicate()) pidfd = std::move(*copy);
    }
    auto vm = assemble(parts);
    if (vm && vm->record.vm == id) {
      note_owner(*vm);
      result.vms.push_back(std::move(*vm));
    } else {
      result.unusable.push_back(
          {VmId{id}, vm ? "its record is another's" : vm.error().text(), {}, std::move(pidfd), {}});
    }
  }
  return result;
}

Status Keeping::note_pools(std::span<const store::PoolFile> pools, bool store) {
  if (!store) {
    // Left when an `off` was cut short: the pools go first.
    return pools.empty() || !client_ ? Status{} : pools_.drop(*client_);
  }
  for (const store::PoolFile& pool : pools) {
    if (Status noted = pools_.note_kept(pool, kNobody); !noted) return noted;
  }
  return {};
}

void Keeping::note_owner(const KeptVm& vm) {
  const Working working(*this);
  vms_kept_[vm.record.vm].account = ids_.account_of(vm.record.uid);
}

Status Keeping::check_share(const Places& wanted) const {
  Places own;
  Places others{kStoreParts, 0, 0};
  const auto add = [&](const Places& places) {
    Places& sum = places.account == wanted.account ? own : others;
    sum.descriptors += places.descriptors;
    sum.bytes += places.bytes;
  };
  for (const auto& [id, places] : vms_kept_) add(places);
  pools_.each_places(add);
  const OwnerShare descriptors(client_->held_max(), OwnerShare::kHalf);
  const OwnerShare bytes(keeper::kNameBytesMax, OwnerShare::kHalf);
  if (descriptors.allows(others.descriptors, own.descriptors, wanted.descriptors) &&
      bytes.allows(others.bytes, own.bytes, wanted.bytes)) {
    return {};
  }
  return fail(
      fmt::format("its owner (uid {}) has {} of the keeper's {} places, and the rest is for "
                  "other owners: run fewer VMs as this user",
                  wanted.account, own.descriptors, client_->held_max()),
      EDQUOT);
}

Status Keeping::keep_store(keeper::Client& client, const store::StoreFiles& store) {
  if (store_kept_) return {};
  const std::array set{keeper::Keep{"store.contents", store.contents},
                       keeper::Keep{"store.arena", store.arena},
                       keeper::Keep{"store.groups", store.groups}};
  static_assert(set.size() == kStoreParts);
  store_handed_over_ = true;
  const Status kept = client.keep_together(set);
  store_kept_ = kept.has_value();
  return kept;
}

Status Keeping::keep_vm(const guest::Vm& vm, const store::StoreFiles& store) {
  return call([&](keeper::Client& client) -> Status {
    mutex_.is_held();
    if (anothers_store_) return fail("the keeper holds another daemon's store", EBUSY);
    if (Status kept = keep_store(client, store); !kept) return kept;
    if (Status kept = pools_.keep_all(client); !kept) return kept;
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
    Places wanted{set.size() + 1, stored_bytes(record), ids_.account_of(vm.record().uid)};
    for (const keeper::Keep& keep : set) wanted.bytes += stored_bytes(keep.name);
    if (!vms_kept_.contains(vm.id().value)) {
      if (Status allowed = check_share(wanted); !allowed) return allowed;
    }
    // Noted before the call: a call that fails half-way leaves parts with the keeper.
    vms_kept_[vm.id().value] = wanted;
    if (Status kept = client.keep_together(set); !kept) return kept;
    return client.keep(record, files.record);
  });
}

Status Keeping::keep_pool(const store::PoolFile& pool, const guest::Vm& vm) {
  return call([&](keeper::Client& client) -> Status {
    mutex_.is_held();
    // So a VM that leaves at this moment brings neither a pool nor the store back to the keeper.
    if (!vms_kept_.contains(vm.id().value))
      return fail("the keeper does not hold the VM that needs the pool", ENOENT);
    if (anothers_store_) return fail("the keeper holds another daemon's store", EBUSY);
    const uid_t account = ids_.account_of(vm.record().uid);
    if (pools_.has(pool)) {
      pools_.set_account(pool, account);
    } else if (Status allowed = check_share(pools_.places_of(pool, account)); !allowed) {
      return allowed;
    }
    return pools_.keep(client, pool, account);
  });
}

Status Keeping::forget_pools_but(std::span<const store::PoolFile> pools) {
  return call([&](keeper::Client& client) -> Status {
    mutex_.is_held();
    if (anothers_store_) return {};
    return pools_.forget_but(client, pools);
  });
}

Status Keeping::drop_vm(VmId id) {
  const Working working(*this);
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
    const Working working(*this);
    if (!store_handed_over_) return {};
  }
  if (Status connected = connect(); !connected) return connected;
  return call([&](keeper::Client& client) -> Status {
    mutex_.is_held();
    // A keeper that was started anew has VMs back of which this daemon has told it nothing, because
    // it does not serve them.
    const auto has_vms = holds_any(client, kVmPrefix);
    if (!has_vms) return std::unexpected(has_vms.error());
    if (!vms_kept_.empty() || !vms_to_drop_.empty() || *has_vms) {
      return fail("the keeper holds VMs whose pages may be in the store", EBUSY);
    }
    // The pools first: pools without a store would be of no use to the next daemon.
    if (Status gone = pools_.drop(client); !gone) return gone;
    store_kept_ = false;
    Status dropped = client.drop_prefix(kStorePrefix);
    store_handed_over_ = !dropped;
    return dropped;
  });
}

}  // namespace ramfold::daemon
