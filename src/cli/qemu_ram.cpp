// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_ram.hpp"

#include <map>
#include <set>

namespace ramfold::cli {
namespace {

using estimate::Backing;
using estimate::MemoryBlock;

// The size of RAM when no option gives one.
constexpr ByteCount kRamDefault{128u << 20};

bool is_memory_device(std::string_view driver) {
  return driver == "pc-dimm" || driver.starts_with("virtio-mem") || driver == "hv-balloon";
}

class Reader {
 public:
  explicit Reader(const QemuOptions& options) : options_(options) {}

  QemuMemory read() && {
    find_users();
    memory_.mem_path = options_.last("mem-path", "path");
    if (of_machine_.empty()) memory_.blocks.push_back(made_by_machine());
    bool machine_has_backend = false;
    for (const QemuOption& option : options_.options) {
      if (option.name != "object") continue;
      const std::string type = value_of(option.properties, "qom-type");
      if (!type.starts_with("memory-backend-")) continue;
      const std::string id = value_of(option.properties, "id");
      const bool machine = of_machine_.contains(id);
      machine_has_backend = machine_has_backend || machine;
      backend(type, id, option.properties, machine || of_device_.contains(id));
    }
    // No object makes the machine's RAM: the machine makes it by itself, or an option names an
    // object that does not exist, and QEMU would not start. Only the size is known.
    if (!machine_has_backend) {
      if (!of_machine_.empty()) memory_.blocks.push_back(made_by_machine());
      memory_.ram.insert(memory_.ram.begin(), QemuMemory::Ram{});
    }
    return std::move(memory_);
  }

 private:
  void find_users() {
    const auto note = [](std::set<std::string>& ids, const QemuOption& option, const char* key) {
      const std::string id = value_of(option.properties, key);
      if (!id.empty()) ids.insert(id);
    };
    for (const QemuOption& option : options_.options) {
      if (option.name == "numa") note(of_machine_, option, "memdev");
      if (option.name != "device") continue;
      if (is_memory_device(value_of(option.properties, "driver"))) {
        note(of_device_, option, "memdev");
      }
      note(of_device_, option, "volatile-memdev");  // cxl-type3
    }
    const std::string id = options_.last("machine", "memory-backend");
    if (!id.empty()) of_machine_.insert(id);
  }

  MemoryBlock made_by_machine() const {
    MemoryBlock block{kRamDefault, Backing::anonymous, {}, true};
    const ByteCount by_machine = size_of(options_.last("machine", "memory.size"), 1ull << 20);
    const ByteCount by_option = size_of(options_.last("m", "size"), 1ull << 20);
    if (by_machine.value != 0) block.size = by_machine;
    if (by_option.value != 0) block.size = by_option;
    if (!memory_.mem_path.empty()) {
      block.backing = Backing::file;
      block.path = memory_.mem_path;
    }
    return block;
  }

  void backend(const std::string& type, const std::string& id, const Properties& properties,
               bool is_ram) {
    MemoryBlock block{size_of(value_of(properties, "size"), 1), Backing::any, {}, is_ram};
    if (type == "memory-backend-memfd") {
      block.backing = Backing::memfd;
    } else if (type == "memory-backend-file") {
      block.backing = Backing::file;
      block.path = value_of(properties, "mem-path");
    } else if (type == "memory-backend-ram" && !is_on(properties, "share")) {
      block.backing = Backing::anonymous;
    }
    if (block.size.value != 0) memory_.blocks.push_back(std::move(block));
    if (!is_ram) return;
    // memory-backend-memfd is shared unless share=off is given.
    memory_.ram.push_back({id, type, is_off(properties, "share"), is_on(properties, "hugetlb"),
                           of_device_.contains(id)});
  }

  const QemuOptions& options_;
  std::set<std::string> of_machine_;  // ids of the backends that are the machine's RAM
  std::set<std::string> of_device_;
  QemuMemory memory_;
};

}  // namespace

ByteCount QemuMemory::size() const {
  ByteCount size;
  for (const estimate::MemoryBlock& block : blocks) {
    if (block.is_ram) size.value += block.size.value;
  }
  return size;
}

QemuMemory memory_of(const QemuOptions& options) { return Reader(options).read(); }

}  // namespace ramfold::cli
