// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/agents/attach.hpp"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/random.h>
#include <algorithm>
#include <cstring>

#include "base/printable.hpp"
#include "daemon/fleet/tables_share.hpp"
#include "daemon/log.hpp"
#include "guest/page_table.hpp"
#include "policy/targets.hpp"

namespace ramfold::daemon {
namespace {

// The value of `key=` in a comma-separated option; without `key=`, its first part.
std::string option_value(std::string_view option, std::string_view key) {
  std::string_view rest = option;
  while (!rest.empty()) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    if (part.starts_with(key)) return std::string(part.substr(key.size()));
    rest = comma == std::string_view::npos ? std::string_view{} : rest.substr(comma + 1);
  }
  return std::string(option.substr(0, option.find(',')));
}

bool is_management_account(uid_t uid) {
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer;
  if (::getpwuid_r(uid, &entry, buffer.data(), buffer.size(), &found) != 0 || found == nullptr)
    return false;
  const std::string_view name = found->pw_name;
  return name == "libvirt-qemu" || name == "qemu" || name == "oneadmin" || name == "nova";
}

void copy_text(char* to, std::size_t size, std::string_view text) {
  const std::size_t n = std::min(size - 1, text.size());
  std::memcpy(to, text.data(), n);
  to[n] = 0;
}

// The text as a record stores it: printable, at most `size` bytes with the final zero.
std::string shown(std::string_view text, std::size_t size) {
  return std::string(cut_text(printable(text), size - 1));
}

}  // namespace

VmIdentity identify(const sys::Procfs& procfs, pid_t pid) {
  VmIdentity identity{fmt::format("qemu-{}", pid), {}};
  const auto arguments = procfs.arguments(pid);
  if (!arguments) return identity;
  for (std::size_t i = 0; i + 1 < arguments->size(); ++i) {
    const std::string& a = (*arguments)[i];
    if (a == "-name" || a == "--name") identity.name = option_value((*arguments)[i + 1], "guest=");
    if (a == "-uuid" || a == "--uuid") identity.uuid = policy::normal_uuid((*arguments)[i + 1]);
  }
  // Both come from the VM's command line, and are shown on terminals and in logs.
  identity.name = shown(identity.name, sizeof guest::VmRecord::name);
  identity.uuid = shown(identity.uuid, sizeof guest::VmRecord::uuid);
  if (identity.name.empty()) identity.name = fmt::format("qemu-{}", pid);
  return identity;
}

std::string group_of(const policy::Config& config, const VmIdentity& identity, uid_t uid, VmId id) {
  const policy::VmClaim claim{identity.name, identity.uuid, uid, policy::Vouched::no};
  if (!policy::vm_targets(config, claim).share) return fmt::format("vm:{}", id.value);
  if (const auto group = policy::vm_group(config, claim)) return "set:" + group->substr(0, 59);
  if (config.group_default == policy::GroupDefault::vm || is_management_account(uid)) {
    return fmt::format("vm:{}", id.value);
  }
  return fmt::format("uid:{}", uid);
}

void warn_of_groups(const policy::Config& config, const std::vector<VmHandle>& vms) {
  for (const VmHandle& vm : vms) {
    const guest::VmRecord& record = vm->vm->record();
    const std::string group = group_of(config, {record.name, vm->uuid}, record.uid, vm->vm->id());
    if (group == record.group) continue;
    log::warn("vm {}: stays in group {} until it is detached; by the configuration it is in {}",
              vm->vm->name(), record.group, group);
  }
}

std::optional<std::string> too_much_ram(const policy::HostConfig& host, PageCount declared,
                                        const DeclaredRam& beside, ByteCount host_ram) {
  const double most = static_cast<double>(host_ram.value) * host.vm_ram_factor_max;
  if (static_cast<double>(bytes(declared).value) > most) {
    return fmt::format(
        "it declares {} MiB of RAM, more than {} times the host's {} MiB: give it less RAM, or "
        "raise host.vm_ram_factor_max",
        bytes(declared).value >> 20, host.vm_ram_factor_max, host_ram.value >> 20);
  }
  const auto owners = [](PageCount pages) { return guest::PageTable::owners_size(pages).value; };
  if (tables_share(host_ram).allows(owners(beside.of_others), owners(beside.of_owner),
                                    owners(declared))) {
    return std::nullopt;
  }
  return fmt::format(
      "the VMs of its user declare {} MiB of RAM together, and with its {} MiB the notes of their "
      "pages would exceed the user's share: run fewer VMs as this user, or give them less RAM",
      bytes(beside.of_owner).value >> 20, bytes(declared).value >> 20);
}

Result<VmHandle> Attacher::attach(const AgentPeer& peer, const VmIdentity& identity,
                                  const rf_offer& offer, sys::Fd uffd, std::vector<sys::Fd> rams,
                                  const DeclaredRam& beside) {
  const VmId id{next_id_++};
  guest::VmRecord record;
  record.vm = id.value;
  record.pid = peer.pid;
  record.start_time = peer.start_ticks;
  record.uid = peer.uid;
  record.blocks = offer.blocks;
  record.features = features_;
  PageCount pages{0};
  for (std::uint32_t i = 0; i < offer.blocks; ++i) {
    record.block[i] = offer.block[i];
    pages.value += offer.block[i].size >> kPageShift;
  }
  const auto host = sys::Procfs().memory_info();
  if (!host) return std::unexpected(host.error());
  const auto config = adopter_.config();
  if (auto why = too_much_ram(config->host, pages, beside, host->total)) return fail(*why, E2BIG);
  if (::getrandom(record.instance, sizeof record.instance, 0) != sizeof record.instance)
    return fail_errno("getrandom");
  copy_text(record.name, sizeof record.name, identity.name);
  copy_text(record.uuid, sizeof record.uuid, identity.uuid);
  copy_text(record.group, sizeof record.group, group_of(*config, identity, peer.uid, id));

  guest::Vm::Files files;
  auto words =
      sys::make_memfd("ramfold-page-table", guest::PageTable::words_size(pages), sys::Sealed::yes);
  if (!words) return std::unexpected(words.error());
  auto shared =
      sys::make_memfd("ramfold-shared", guest::PageTable::shared_size(pages), sys::Sealed::yes);
  if (!shared) return std::unexpected(shared.error());
  auto record_file = sys::make_memfd("ramfold-record", ByteCount{kPageSize}, sys::Sealed::yes);
  if (!record_file) return std::unexpected(record_file.error());
  auto pidfd = peer.pidfd.duplicate();
  if (!pidfd) return std::unexpected(pidfd.error());
  files.uffd = std::move(uffd);
  files.rams = std::move(rams);
  files.words = std::move(*words);
  files.shared = std::move(*shared);
  files.record = std::move(*record_file);
  files.pidfd = std::move(*pidfd);

  if (Status ok = guest::write_record(files.record, record); !ok)
    return std::unexpected(ok.error());
  auto vm = adopter_.make(record, std::move(files));
  if (!vm) return vm;
  rf_shared& memory = (*vm)->vm->table().shared();
  memory.pages = pages.value;
  memory.version = RF_VERSION_MAX;
  std::memcpy(memory.instance, record.instance, sizeof record.instance);
  memory.magic = RF_MAGIC;
  return vm;
}

}  // namespace ramfold::daemon
