// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/qemu_disks.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

namespace ramfold::cli {
namespace {

using Kind = DiskFinding::Kind;
using std::string_view;

struct Consumer {
  string_view driver;
  Kind kind;
};
// These drivers take the whole file name as a path, also with a protocol in it.
constexpr std::array<string_view, 3> kTakesPath{"file", "host_device", "host_cdrom"};
constexpr std::array<Consumer, 4> kConsumers{{{"nvme", Kind::user_space_nvme},
                                              {"virtio-blk-vfio-pci", Kind::device_by_itself},
                                              {"virtio-blk-vhost-vdpa", Kind::device_by_itself},
                                              {"virtio-blk-vhost-user", Kind::other_process}}};

// The protocol in a file's name: the part before the colon. Empty when a slash comes before the
// colon: then QEMU takes the whole as a path.
string_view protocol_of(string_view filename) {
  const auto end = filename.find_first_of(":/");
  if (end == string_view::npos || filename[end] != ':') return {};
  return filename.substr(0, end);
}

const Consumer* consumer_of(string_view driver) {
  const auto found = std::ranges::find(kConsumers, driver, &Consumer::driver);
  return found == kConsumers.end() ? nullptr : &*found;
}

struct Node {
  std::string driver;
  std::string filename;
};

class Disk {
 public:
  Disk(DiskOption option, Properties properties) : properties_(std::move(properties)) {
    if (option == DiskOption::drive) {
      // "file" of a drive is a file's name; "file" of a block node is another node.
      const auto file = properties_.find("file");
      if (file != properties_.end()) properties_["filename"] = file->second;
    }
    unfold_json();
    for (const auto& [key, value] : properties_) note(key, value);
  }

  std::vector<DiskFinding> look() && {
    for (const auto& [path, node] : nodes_) find_consumer(path, node);
    return std::move(findings_);
  }

 private:
  // "json:{...}" as a file's name is a graph below that node. It may hold another such name.
  void unfold_json() {
    constexpr int kDepthMax = 16;
    for (int depth = 0; depth < kDepthMax; ++depth) {
      const auto found = std::ranges::find_if(properties_, [](const auto& property) {
        return property.second.starts_with("json:") && is_key(property.first, "filename");
      });
      if (found == properties_.end()) return;
      const Properties inner = parse_properties(string_view(found->second).substr(5), "");
      std::string before = node_of(found->first, "filename");
      if (!before.empty()) before += '.';
      properties_.erase(found);
      for (const auto& [key, value] : inner) properties_.try_emplace(before + key, value);
    }
  }

  static bool is_key(string_view key, string_view name) {
    return key == name || (key.size() > name.size() && key.ends_with(name) &&
                           key[key.size() - name.size() - 1] == '.');
  }
  // The path of the node that the key belongs to; empty for the outermost.
  static std::string node_of(string_view key, string_view name) {
    return std::string(key.size() == name.size() ? ""
                                                 : key.substr(0, key.size() - name.size() - 1));
  }

  void note(const std::string& key, const std::string& value) {
    if (is_key(key, "driver")) {
      nodes_[node_of(key, "driver")].driver = value;
    } else if (is_key(key, "filename")) {
      nodes_[node_of(key, "filename")].filename = value;
    }
  }

  void find_consumer(const std::string& path, const Node& node) {
    const Consumer* consumer = consumer_of(node.driver);
    // Below the driver of a format is a node that the file name alone tells of.
    if (consumer == nullptr && std::ranges::count(kTakesPath, node.driver) == 0)
      consumer = consumer_of(protocol_of(node.filename));
    if (consumer == nullptr) return;
    findings_.push_back(
        {consumer->kind, label(path, node), "driver " + std::string(consumer->driver)});
  }

  static std::string file_of(const Node& node) {
    constexpr string_view kFile = "file:";
    return node.filename.starts_with(kFile) ? node.filename.substr(kFile.size()) : node.filename;
  }

  std::string label(const std::string& path, const Node& node) const {
    if (!node.filename.empty()) return file_of(node);
    const std::string before = path.empty() ? "" : path + ".";
    for (const std::string& key :
         {before + "device", before + "path", std::string("node-name"), std::string("id")}) {
      if (const std::string value = value_of(properties_, key); !value.empty()) return value;
    }
    return "?";
  }

  Properties properties_;
  std::map<std::string, Node> nodes_;  // by path
  std::vector<DiskFinding> findings_;
};

}  // namespace

std::vector<DiskFinding> look_at_disk(DiskOption option, Properties properties) {
  return Disk(option, std::move(properties)).look();
}

}  // namespace ramfold::cli
