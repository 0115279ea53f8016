// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_command.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "cli/qemu_properties.hpp"

namespace ramfold::cli {
namespace {

using control::Reason;

constexpr std::string_view kMemfdRemedy =
    "start QEMU with -object memory-backend-memfd,id=ram0,size=SIZE,share=on -machine "
    "memory-backend=ram0 (libvirt: <memoryBacking><source type='memfd'/><access "
    "mode='shared'/></memoryBacking>)";
constexpr std::string_view kCacheRemedy =
    "use cache=writeback and no aio=native (libvirt: <driver cache='writeback' io='threads'/>); if "
    "the disk must stay O_DIRECT, ramfold only observes this VM";

std::string_view base_name(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

// "512M", "4G", "4096" (in `unit` bytes without a suffix); 0 when it is no size.
std::uint64_t size_of(std::string_view text, std::uint64_t unit) {
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || number < 0 || number > 1e15) return 0;
  const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
  if (!suffix.empty()) {
    switch (suffix.front()) {
      case 'b':
      case 'B': unit = 1; break;
      case 'k':
      case 'K': unit = 1ull << 10; break;
      case 'm':
      case 'M': unit = 1ull << 20; break;
      case 'g':
      case 'G': unit = 1ull << 30; break;
      case 't':
      case 'T': unit = 1ull << 40; break;
      default: return 0;
    }
  }
  const double bytes = number * static_cast<double>(unit);
  return bytes > 1e18 ? 0 : static_cast<std::uint64_t>(bytes);
}

struct Option {
  std::string_view name;  // without dashes
  Properties properties;
  std::string_view text;
};

// The options looked at, and what their first part without '=' stands for.
struct KnownOption {
  std::string_view name;
  const char* implied;
};
constexpr std::array kOptions{
    KnownOption{"object", "qom-type"}, KnownOption{"drive", "file"},
    KnownOption{"blockdev", "driver"}, KnownOption{"device", "driver"},
    KnownOption{"netdev", "type"},     KnownOption{"machine", "type"},
    KnownOption{"M", "type"},          KnownOption{"overcommit", ""},
    KnownOption{"realtime", ""},       KnownOption{"name", "guest"},
    KnownOption{"m", "size"},          KnownOption{"numa", "type"},
    KnownOption{"uuid", "uuid"},       KnownOption{"mem-path", "path"},
    KnownOption{"incoming", "uri"},
};

class Examiner {
 public:
  explicit Examiner(std::span<const std::string> arguments) { collect(arguments); }

  QemuAdvice examine() {
    identity();
    if (advice_.probing) return std::move(advice_);
    memory();
    locking();
    for (const Option& option : options_) {
      if (option.name == "drive") drive(option.properties);
      if (option.name == "blockdev") block_node(option.properties);
      if (option.name == "device") device(option.properties);
      if (option.name == "netdev") network(option.properties);
      if (option.name == "object") object(option.properties);
    }
    return std::move(advice_);
  }

 private:
  void collect(std::span<const std::string> arguments) {
    for (std::size_t i = 1; i < arguments.size(); ++i) {
      std::string_view name = arguments[i];
      if (!name.starts_with('-')) continue;
      name.remove_prefix(name.starts_with("--") ? 2 : 1);
      flags_.insert(std::string(name));
      const auto known = std::find_if(kOptions.begin(), kOptions.end(),
                                      [&](const KnownOption& o) { return o.name == name; });
      if (known == kOptions.end() || i + 1 == arguments.size()) continue;
      const std::string& text = arguments[++i];
      options_.push_back({known->name, parse_properties(text, known->implied), text});
    }
  }

  void identity() {
    for (const Option& option : options_) {
      if (option.name == "name") advice_.name = value_of(option.properties, "guest");
      if (option.name == "uuid") advice_.uuid = value_of(option.properties, "uuid");
      if (option.name == "m" && advice_.ram.value == 0) {
        advice_.ram = ByteCount{size_of(value_of(option.properties, "size"), 1ull << 20)};
      }
      if (is_machine(option) && value_of(option.properties, "type") == "none") {
        advice_.probing = true;
      }
    }
    for (const char* question : {"version", "help", "h"}) {
      if (flags_.contains(question)) advice_.probing = true;
    }
    for (const Option& option : options_) {
      for (const auto& [key, value] : option.properties) {
        if (value == "help" || value == "?" || key == "help" || key == "?") advice_.probing = true;
      }
    }
  }

  static bool is_machine(const Option& option) {
    return option.name == "machine" || option.name == "M";
  }

  // Ids of the backends that are the VM's RAM.
  std::set<std::string> ram_ids() const {
    std::set<std::string> ids;
    for (const Option& option : options_) {
      const char* key = is_machine(option) ? "memory-backend" : "memdev";
      if (!is_machine(option) && option.name != "numa") continue;
      const std::string id = value_of(option.properties, key);
      if (!id.empty()) ids.insert(id);
    }
    return ids;
  }

  void memory() {
    const std::set<std::string> ids = ram_ids();
    std::uint64_t backed = 0;
    bool found = false;
    for (const Option& option : options_) {
      const std::string type = value_of(option.properties, "qom-type");
      if (option.name != "object" || !type.starts_with("memory-backend-")) continue;
      const std::string id = value_of(option.properties, "id");
      if (!ids.contains(id)) continue;
      found = true;
      backed += size_of(value_of(option.properties, "size"), 1);
      backend(type, id, option.properties);
    }
    if (backed > 0) advice_.ram = ByteCount{backed};
    for (const Option& option : options_) {
      if (option.name == "mem-path") {
        add("ram_layout", fmt::format("RAM is a file in {} (-mem-path)", option.text),
            kMemfdRemedy);
        return;
      }
    }
    if (!found) add("ram_layout", "RAM is not a memory-backend-memfd", kMemfdRemedy);
  }

  void backend(const std::string& type, const std::string& id, const Properties& properties) {
    if (type != "memory-backend-memfd") {
      add("ram_layout", fmt::format("RAM '{}' is a {}", id, type), kMemfdRemedy);
    } else if (value_of(properties, "share") == "off") {
      add("ram_layout", fmt::format("RAM '{}' has share=off", id), kMemfdRemedy);
    }
    // memory-backend-memfd shares unless told otherwise; saying so keeps it true in any version.
    if (is_on(properties, "hugetlb")) {
      add("hugetlb", fmt::format("RAM '{}' uses hugetlbfs, whose pages cannot be folded", id),
          "remove hugetlb=on (libvirt: <hugepages/>)");
    }
  }

  void locking() {
    for (const Option& option : options_) {
      const bool locks = option.name == "overcommit" &&
                         !value_of(option.properties, "mem-lock").empty() &&
                         value_of(option.properties, "mem-lock") != "off";
      const bool locked = option.name == "realtime" && is_on(option.properties, "mlock");
      if (locks || locked) {
        add("locked_memory", "RAM is locked into memory",
            "remove -overcommit mem-lock=on (libvirt: <memoryBacking><locked/>)");
      }
      if (is_machine(option) &&
          (!value_of(option.properties, "confidential-guest-support").empty() ||
           !value_of(option.properties, "memory-encryption").empty())) {
        confidential();
      }
    }
    if (flags_.contains("incoming")) {
      add("incoming_migration", "the VM waits for its migration",
          "nothing: it may be folded once the migration has ended");
    }
  }

  void confidential() {
    add("confidential_guest", "the guest's memory is encrypted (SEV or TDX)",
        "remove confidential-guest-support, or leave this VM alone");
  }

  void drive(const Properties& drive) {
    const std::string file = value_of(drive, "file");
    const std::string label = fmt::format("disk {}", shown(drive, file));
    if (file.starts_with("nvme://") || value_of(drive, "file.driver") == "nvme") {
      return user_space_nvme(label);
    }
    const std::string cache = value_of(drive, "cache");
    if (cache == "none" || cache == "directsync") {
      direct(label, "cache=" + cache);
    } else if (is_on(drive, "cache.direct") || is_on(drive, "file.cache.direct")) {
      direct(label, "cache.direct=on");
    } else if (value_of(drive, "aio") == "native") {
      direct(label, "aio=native");
    }
  }

  void block_node(const Properties& node) {
    const std::string driver = value_of(node, "driver");
    const std::string file = value_of(node, "filename");
    const std::string label = fmt::format("disk {}", shown(node, file));
    if (driver == "nvme") return user_space_nvme(label);
    // Nodes above the one that opens the file repeat its cache; one reason a disk is enough.
    if (file.empty() && value_of(node, "file.filename").empty()) return;
    if (is_on(node, "cache.direct") || is_on(node, "file.cache.direct")) {
      direct(label, "cache.direct=on");
    } else if (value_of(node, "aio") == "native") {
      direct(label, "aio=native");
    }
  }

  static std::string shown(const Properties& properties, const std::string& file) {
    if (!file.empty()) return file;
    for (const char* key : {"file.filename", "node-name", "id", "device"}) {
      if (const std::string value = value_of(properties, key); !value.empty()) return value;
    }
    return "?";
  }

  void direct(const std::string& disk, const std::string& how) {
    add("direct_io",
        fmt::format("{} is opened with O_DIRECT ({}): writes of the device bypass the guard", disk,
                    how),
        kCacheRemedy);
  }

  void user_space_nvme(const std::string& disk) {
    add("other_consumer", disk + " is an NVMe controller driven through VFIO",
        "use the kernel's driver and its block device");
  }

  void device(const Properties& device) {
    const std::string driver = value_of(device, "driver");
    const auto has = [&](std::string_view prefix) { return driver.starts_with(prefix); };
    if (has("vfio-") || has("vhost-vdpa") || has("pvrdma")) {
      add("other_consumer", fmt::format("device {} writes to guest memory by itself", driver),
          "use an emulated or virtio device in its place, or leave this VM alone");
    } else if (has("vhost-user-")) {
      vhost_user("device " + driver);
    } else if (has("vhost-scsi-")) {
      add("other_consumer",
          fmt::format("device {} lets the kernel's SCSI target use guest memory", driver),
          "use virtio-scsi");
    } else if (driver == "scsi-generic" || driver == "scsi-block") {
      add("sg_io", fmt::format("device {} passes SCSI commands through", driver),
          "use scsi-hd over the block device");
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

  std::vector<Option> options_;
  std::set<std::string> flags_;
  QemuAdvice advice_;
};

}  // namespace

bool is_qemu(std::string_view program) {
  const std::string_view name = base_name(program);
  return name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm";
}

QemuAdvice examine(std::span<const std::string> arguments) { return Examiner(arguments).examine(); }

}  // namespace ramfold::cli
