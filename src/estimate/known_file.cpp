// SPDX-License-Identifier: GPL-2.0-or-later
#include "estimate/known_file.hpp"

#include <elf.h>
#include <fmt/core.h>
#include <magic.h>

#include <cstring>
#include <memory>
#include <string_view>

namespace ramfold::estimate {
namespace {

constexpr std::string_view kPlainRemedy =
    "dump it without compression: QMP dump-guest-memory without \"format\", or virsh dump "
    "--memory-only";

// Formats that libmagic does not know, and formats with a better remedy than the general one.
struct Known {
  std::string_view begins;
  std::string_view what;
};
constexpr Known kKnown[] = {
    {"KDUMP   ", "a compressed dump"},
    {"makedumpfile", "a compressed dump"},
    {"QEVM", "a saved VM, not a dump of its RAM"},
    {"LibvirtQemudSave", "a saved VM, not a dump of its RAM"},
    {"LibvirtQemudPart", "a saved VM, not a dump of its RAM"},
    {"PAGEDU64", "a dump for Windows' debugger"},
    {"PAGEDUMP", "a dump for Windows' debugger"},
    {"EMiL", "a LiME dump"},
    {"AVML", "an AVML dump"},
};

bool begins_with(std::span<const std::byte> head, std::string_view magic) {
  return head.size() >= magic.size() && std::memcmp(head.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Result<std::optional<std::string>> known_as(std::span<const std::byte> head) {
  if (begins_with(head, ELFMAG)) return std::nullopt;
  for (const Known& known : kKnown) {
    if (begins_with(head, known.begins)) return fmt::format("{}: {}", known.what, kPlainRemedy);
  }
  const std::unique_ptr<magic_set, decltype(&::magic_close)> magic(::magic_open(MAGIC_NONE),
                                                                   &::magic_close);
  if (magic == nullptr || ::magic_load(magic.get(), nullptr) != 0) {
    return fail(
        "libmagic cannot tell whether it is RAM: install libmagic-mgc, or say --raw if it is");
  }
  const char* found = ::magic_buffer(magic.get(), head.data(), head.size());
  const std::string_view what = found == nullptr ? "" : found;
  if (what.empty() || what == "data") return std::nullopt;
  const bool packed = what.find("compressed data") != std::string_view::npos ||
                      what.find("archive") != std::string_view::npos;
  return fmt::format(
      "not RAM: {}: {}", what,
      packed ? "unpack it first" : "name a dump of RAM, or say --raw if it is RAM all the same");
}

}  // namespace ramfold::estimate
