// SPDX-License-Identifier: GPL-2.0-or-later
// Tells swap on a disk from swap on zram, which is compressed RAM. proc(5), "/proc/swaps";
// Documentation/admin-guide/blockdev/zram.rst.
#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <memory>

#include "sys/procfs.hpp"
#include "sys/procfs_text.hpp"

namespace ramfold::sys {
namespace {

// Block devices lie on other block devices (device mapper, md). Nobody stacks more than this.
constexpr unsigned kStackedMax = 8;

struct CloseDir {
  void operator()(DIR* dir) const noexcept { ::closedir(dir); }
};

bool is_digits(std::string_view text) noexcept {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// "zram0", and "zram0p1", a partition of it.
bool is_zram(std::string_view name) noexcept {
  constexpr std::string_view kPrefix = "zram";
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  const std::size_t p = name.find('p');
  return is_digits(name.substr(0, p)) &&
         (p == std::string_view::npos || is_digits(name.substr(p + 1)));
}

std::string link_of(const std::string& path) {
  std::error_code error;
  return std::filesystem::read_symlink(path, error).string();
}

bool has_zram(std::string_view path) {
  while (!path.empty()) {
    if (is_zram(text::before(path, '/'))) return true;
  }
  return false;
}

// The block device with this kernel name, or a device that it lies on, is zram.
bool lies_on_zram(const std::string& root, const std::string& name, unsigned depth) {
  if (is_zram(name)) return true;
  const std::string device = root + "/sys/class/block/" + name;
  if (has_zram(link_of(device))) return true;
  if (depth == kStackedMax) return false;
  const std::unique_ptr<DIR, CloseDir> slaves(::opendir((device + "/slaves").c_str()));
  while (const dirent* entry = slaves ? ::readdir(slaves.get()) : nullptr) {
    if (entry->d_name[0] != '.' && lies_on_zram(root, entry->d_name, depth + 1)) return true;
  }
  return false;
}

// The kernel name of the block device at `path`, or of the one that holds the file at `path`;
// empty: not known.
std::string device_of(const std::string& root, const std::string& path) {
  struct stat st{};
  if (::stat(path.c_str(), &st) != 0) return {};
  const dev_t device = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
  const std::string link = link_of(root + "/sys/dev/block/" + std::to_string(major(device)) + ":" +
                                   std::to_string(minor(device)));
  return std::filesystem::path(link).filename().string();
}

bool is_on_zram(const std::string& root, const std::string& swap) {
  const std::string path = root + swap;
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::canonical(path, error);
  const std::string names[] = {std::filesystem::path(swap).filename().string(),
                               error ? std::string{} : whole.filename().string(),
                               device_of(root, path)};
  for (const std::string& name : names) {
    if (!name.empty() && lies_on_zram(root, name, 0)) return true;
  }
  return false;
}

// The kernel writes a space, a tab, a newline and a backslash as \ooo.
std::string unescaped(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const auto code = text[0] == '\\' && text.size() >= 4
                          ? text::number<unsigned>(text.substr(1, 3), 8)
                          : std::nullopt;
    out += code ? static_cast<char>(*code) : text[0];
    text.remove_prefix(code ? 4 : 1);
  }
  return out;
}

}  // namespace

std::optional<SwapArea> parse_swap_line(std::string_view line) {
  const std::string_view path = text::word(line);
  text::word(line);  // "partition" or "file"
  const auto size = text::number<std::uint64_t>(text::word(line));
  const auto used = text::number<std::uint64_t>(text::word(line));
  if (!size || !used || *used > *size || *size > UINT64_MAX / 1024) return std::nullopt;
  return SwapArea{unescaped(path), ByteCount{(*size - *used) * 1024}};
}

ByteCount Procfs::disk_swap_free() const {
  const auto content = text::read_file(root_ + "/proc/swaps", kSmallFileMax);
  ByteCount free;
  if (!content) return free;
  for (std::string_view rest = *content; !rest.empty();) {
    const auto area = parse_swap_line(text::before(rest, '\n'));
    if (area && !is_on_zram(root_, area->path)) free.value += area->free.value;
  }
  return free;
}

}  // namespace ramfold::sys
