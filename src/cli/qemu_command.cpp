// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_command.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "cli/qemu_disks.hpp"
#include "cli/qemu_properties.hpp"
#include "cli/qemu_ram.hpp"

namespace ramfold::cli {
namespace {

using control::Reason;

constexpr std::string_view kMemfdRemedy =
    "start QEMU with -object memory-backend-memfd,id=ram0,size=SIZE,share=on -machine "
    "memory-backend=ram0 (libvirt: <memoryBacking><source type='memfd'/><access "
    "mode='shared'/></memoryBacking>)";
constexpr std::string_view kDeviceRemedy =
    "make the memory device's backend a memory-backend-memfd with share=on (libvirt: "
    "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>)";

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::array<std::string_view, 7> kWrapped{"-wrapped", "_wrapped", ".wrapped", ".real",
                                                   ".orig",    ".distrib", "_"};

std::string_view base_name(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

class Examiner {
 public:
  explicit Examiner(QemuOptions options) : options_(std::move(options)) {}

  QemuAdvice examine() {
    identity();
    if (advice_.probing) return std::move(advice_);
    memory();
    locking();
    for (const QemuOption& option : options_.options) {
      if (option.name == "drive") disk(DiskOption::drive, option.properties);
      if (option.name == "blockdev") disk(DiskOption::blockdev, option.properties);
      if (option.name == "device") device(option.properties);
      if (option.name == "netdev") network(option.properties);
      if (option.name == "object") object(option.properties);
    }
    return std::move(advice_);
  }

 private:
  void identity() {
    advice_.name = options_.last("name", "guest");
    advice_.uuid = options_.last("uuid", "uuid");
    advice_.probing = options_.probing || options_.last("machine", "type") == "none";
    advice_.unread = options_.unread;
  }

  // A -readconfig file that was not read may define the RAM. Then nothing is said about RAM.
  void memory() {
    if (!advice_.unread.empty()) return;
    const QemuMemory memory = memory_of(options_);
    advice_.blocks = memory.blocks;
    advice_.ram = memory.size();
    for (const QemuMemory::Ram& ram : memory.ram) backend(ram, memory.mem_path);
  }

  void backend(const QemuMemory::Ram& ram, const std::string& mem_path) {
    const std::string_view remedy = ram.is_device ? kDeviceRemedy : kMemfdRemedy;
    if (ram.id.empty()) {
      add("ram_layout",
          mem_path.empty() ? "RAM is not a memory-backend-memfd"
                           : fmt::format("RAM is a file in {} (-mem-path)", mem_path),
          remedy);
    } else if (ram.type != "memory-backend-memfd") {
      add("ram_layout", fmt::format("RAM '{}' is a {}", ram.id, ram.type), remedy);
    } else if (ram.is_private) {
      add("ram_layout", fmt::format("RAM '{}' has share=off", ram.id), remedy);
    }
    if (ram.hugetlb) {
      add("hugetlb", fmt::format("RAM '{}' uses hugetlbfs, whose pages cannot be folded", ram.id),
          "remove hugetlb=on (libvirt: <hugepages/>)");
    }
  }

  void locking() {
    for (const QemuOption& option : options_.options) {
      const Properties& properties = option.properties;
      const bool locks = option.name == "overcommit" && !value_of(properties, "mem-lock").empty() &&
                         !is_off(properties, "mem-lock");  // QEMU 10: also "on-fault"
      const bool locked = option.name == "realtime" && is_on(properties, "mlock");
      if (locks || locked) {
        add("locked_memory", "RAM is locked into memory",
            "remove -overcommit mem-lock=on (libvirt: <memoryBacking><locked/>)");
      }
      if (option.name == "machine" &&
          (!value_of(properties, "confidential-guest-support").empty() ||
           !value_of(properties, "memory-encryption").empty())) {
        confidential();
      }
    }
    if (options_.flags.contains("incoming")) {
      add("incoming_migration",
          "QEMU was started for a migration (-incoming), and does not tell when that has ended",
          "when the migration has ended, say so: `ramfold attach VM --incoming-finished`");
    }
  }

  void confidential() {
    add("confidential_guest", "the guest's memory is encrypted (SEV or TDX)",
        "remove confidential-guest-support, or leave this VM alone");
  }

  void disk(DiskOption option, const Properties& properties) {
    for (const DiskFinding& found : look_at_disk(option, properties)) {
      const std::string disk = "disk " + found.disk;
      switch (found.kind) {
        case DiskFinding::Kind::user_space_nvme:
          add("other_consumer", disk + " is an NVMe controller driven through VFIO",
              "use the kernel's driver and its block device");
          break;
        case DiskFinding::Kind::device_by_itself:
          add("other_consumer",
              fmt::format("{} writes to guest memory by itself ({})", disk, found.how),
              "use a file or a block device of the host");
          break;
        case DiskFinding::Kind::other_process:
          vhost_user(fmt::format("{} ({})", disk, found.how));
          break;
      }
    }
  }

  void device(const Properties& device) {
    const std::string driver = value_of(device, "driver");
    const auto has = [&](std::string_view prefix) { return driver.starts_with(prefix); };
    if (has("vfio-") || has("vhost-vdpa") || has("pvrdma")) {
      add("other_consumer", fmt::format("device {} writes to guest memory by itself", driver),
          "use an emulated or virtio device in its place, or leave this VM alone");
    } else if (has("vhost-user-")) {
      vhost_user("device " + driver);
    } else if (has("virtio-") && is_on(device, "blob")) {
      add("other_consumer", fmt::format("device {} with blob=on shares guest memory", driver),
          "remove blob=on");
    }
  }

  void network(const Properties& network) {
    const std::string type = value_of(network, "type");
    if (type == "vhost-user") vhost_user("netdev vhost-user");
    if (type == "vhost-vdpa") {
      add("other_consumer", "netdev vhost-vdpa writes to guest memory by itself",
          "use a tap device, or leave this VM alone");
    }
  }

  void vhost_user(const std::string& what) {
    add("ram_fd_elsewhere", what + " gives guest RAM to another process",
        "use an in-process or vhost-kernel device (virtio-net with tap; virtio-9p for file "
        "sharing), or leave this VM alone");
  }

  void object(const Properties& object) {
    const std::string type = value_of(object, "qom-type");
    if (type.starts_with("sev-") || type.starts_with("tdx-")) confidential();
  }

  void add(const char* code, std::string text, std::string_view remedy) {
    const Reason reason{code, std::move(text), std::string(remedy)};
    if (std::find(advice_.reasons.begin(), advice_.reasons.end(), reason) ==
        advice_.reasons.end()) {
      advice_.reasons.push_back(reason);
    }
  }

  const QemuOptions options_;
  QemuAdvice advice_;
};

}  // namespace

bool is_qemu(std::string_view program) {
  std::string_view name = base_name(program);
  if (name.ends_with(kDeleted)) name.remove_suffix(kDeleted.size());
  // Distributions rename the program behind a wrapper: ".qemu-system-x86_64-wrapped".
  if (name.starts_with('.')) name.remove_prefix(1);
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view suffix : kWrapped) {
      if (!name.ends_with(suffix)) continue;
      name.remove_suffix(suffix.size());
      again = true;
    }
  }
  if (name == "kvm" || name == "kvm-spice" || name == "qemu" || name == "qemu-spice") return true;
  if (name == "qemu-kvm" || name.starts_with("qemu-kvm-")) return true;
  // qemu-system-x86_64, qemu-system-x86_64-spice, qemu-lite-system-x86_64
  return name.starts_with("qemu-") && name.find("-system-") != std::string_view::npos;
}

QemuAdvice examine(std::span<const std::string> arguments, const ConfigReader& read) {
  return Examiner(read_options(arguments, read)).examine();
}

}  // namespace ramfold::cli
