// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/keeping.hpp"

#include <charconv>
#include <fmt/format.h>

#include "sys/message.hpp"

namespace ramfold::daemon {
namespace {

constexpr std::string_view kStorePrefix = "store.";
constexpr std::string_view kVmPrefix = "vm.";

std::string vm_prefix(VmId id) { return fmt::format("vm.{}.", id.value); }

// "vm.12.ram0" -> 12 and "ram0".
std::optional<std::pair<std::uint32_t, std::string_view>> split_vm(std::string_view name) {
  if (!name.starts_with(kVmPrefix)) return std::nullopt;
  name.remove_prefix(kVmPrefix.size());
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return std::pair{id, std::string_view(end + 1, static_cast<std::size_t>(name.data() + name.size() - end - 1))};
}

using Named = std::map<std::string, sys::Fd, std::less<>>;

Result<KeptVm> assemble(Named& parts) {
  const auto take = [&](std::string_view name) -> sys::Fd {
    const auto it = parts.find(name);
    return it == parts.end() ? sys::Fd{} : std::move(it->second);
  };
  KeptVm vm;
  vm.files.record = take("record");
  if (!vm.files.record) return fail("its hand-over never ended");
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
  auto client = keeper::Client::connect(socket_);
  if (!client) return std::unexpected(client.error());
  client_.emplace(std::move(*client));
  held_ = 0;
  return {};
}

bool Keeping::connected() const {
  const std::lock_guard lock(mutex_);
  return client_ && client_->alive();
}

bool Keeping::backed() const {
  const std::lock_guard lock(mutex_);
  return client_ && client_->alive() && client_->backed();
}

std::uint64_t Keeping::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

pid_t Keeping::keeper_pid() const {
  const std::lock_guard lock(mutex_);
  if (!client_ || !client_->alive()) return -1;
  const auto peer = sys::peer_of(client_->socket());
  return peer ? peer->pid : -1;
}

Status Keeping::call(auto&& request) {
  const std::lock_guard lock(mutex_);
  if (!client_ || !client_->alive()) return fail("the keeper is not connected: start ramfold-keeper", ENOTCONN);
  return request(*client_);
}

Result<Inheritance> Keeping::inherit() {
  std::vector<keeper::Kept> all;
  const Status taken = call([&](keeper::Client& client) -> Status {
    auto kept = client.take_all();
    if (!kept) return std::unexpected(kept.error());
    all = std::move(*kept);
    held_ = all.size();
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
  if (part("contents") != store_parts.end() && part("arena") != store_parts.end() &&
      part("groups") != store_parts.end()) {
    result.store.emplace(store::Contents::Files{std::move(part("contents")->second),
                                                std::move(part("arena")->second),
                                                std::move(part("groups")->second)});
  }
  for (auto& [id, parts] : vms) {
    auto vm = assemble(parts);
    if (vm && vm->record.vm == id) {
      result.vms.push_back(std::move(*vm));
    } else {
      result.dropped.push_back(fmt::format("vm {}: {}", id, vm ? "its record is another's" : vm.error().text()));
      (void)drop_vm(VmId{id});
    }
  }
  return result;
}

Status Keeping::keep_store(const store::Contents& contents) {
  return call([&](keeper::Client& client) -> Status {
    const store::Contents::Files& files = contents.files();
    const std::array set{keeper::Keep{"store.contents", files.contents}, keeper::Keep{"store.arena", files.arena},
                         keeper::Keep{"store.groups", files.groups}};
    const Status kept = client.keep_together(set);
    if (kept) held_ += set.size();
    return kept;
  });
}

Status Keeping::keep_vm(const guest::Vm& vm) {
  return call([&](keeper::Client& client) -> Status {
    const guest::Vm::Files& files = vm.files();
    const std::string prefix = vm_prefix(vm.id());
    const std::string uffd = prefix + "uffd";
    const std::string words = prefix + "words";
    const std::string shared = prefix + "shared";
    const std::string record = prefix + "record";
    std::vector<std::string> rams;
    for (std::size_t i = 0; i < files.rams.size(); ++i) rams.push_back(fmt::format("{}ram{}", prefix, i));
    std::vector<keeper::Keep> set{{uffd, files.uffd}, {words, files.words}, {shared, files.shared}};
    for (std::size_t i = 0; i < rams.size(); ++i) set.push_back({rams[i], files.rams[i]});
    set.push_back({prefix, files.pidfd, keeper::Kind::watch});
    if (Status kept = client.keep_together(set); !kept) return kept;
    if (Status kept = client.keep(record, files.record); !kept) return kept;
    held_ += set.size() + 1;
    return {};
  });
}

Status Keeping::drop_vm(VmId id) {
  return call([&](keeper::Client& client) { return client.drop_prefix(vm_prefix(id)); });
}

}  // namespace ramfold::daemon
