// SPDX-License-Identifier: GPL-2.0-or-later
// What operators, clients and other people's command lines hand to us: requests, replies,
// configuration, QEMU's arguments. The first byte chooses the parser; of the rest, a byte below the
// number of words stands for a word of that parser's language, any other for itself, so that even
// random bytes come close to what is accepted.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "cli/qemu_command.hpp"
#include "cli/qemu_config.hpp"
#include "cli/text.hpp"
#include "control/protocol.hpp"
#include "policy/config.hpp"

using namespace ramfold;

namespace {

constexpr std::string_view kRequestWords[] = {"{",
                                              "}",
                                              ",",
                                              "\"ramfold\":1",
                                              "\"ramfold\":",
                                              "\"id\":7",
                                              "\"id\":",
                                              "\"op\":\"snapshot\"",
                                              "\"op\":\"show\"",
                                              "\"op\":\"detach\"",
                                              "\"op\":\"off\"",
                                              "\"op\":",
                                              "\"vm\":\"web\"",
                                              "\"vm\":",
                                              "\"plan_only\":true",
                                              "\"plan_only\":",
                                              "null",
                                              "[",
                                              "]",
                                              "\"",
                                              "\\u0000",
                                              "-1",
                                              "18446744073709551615",
                                              "1e308"};
constexpr std::string_view kReplyWords[] = {"{",
                                            "}",
                                            ",",
                                            ":",
                                            "\"ramfold\":1,",
                                            "\"snapshot\":",
                                            "\"vm\":",
                                            "\"plan\":",
                                            "\"progress\":",
                                            "\"error\":",
                                            "\"done\":true",
                                            "\"host\":",
                                            "\"vms\":",
                                            "[",
                                            "]",
                                            "\"pages\":",
                                            "\"state\":",
                                            "\"folding\"",
                                            "\"reasons\":",
                                            "\"text\":",
                                            "\"failure\":\"refused\"",
                                            "\"x\"",
                                            "-1",
                                            "1.5",
                                            "99999999999999999999"};
constexpr std::string_view kConfigWords[] = {"[fold]\n",
                                             "[scan]\n",
                                             "[host]\n",
                                             "[gate]\n",
                                             "[groups]\n",
                                             "[[vm]]\n",
                                             "[vm]\n",
                                             "when",
                                             "keep_available",
                                             "passes",
                                             "cpu",
                                             "threads",
                                             "reserve",
                                             "name",
                                             "uuid",
                                             "group",
                                             "default",
                                             " = ",
                                             "\"eager\"",
                                             "\"20%\"",
                                             "\"4 GiB\"",
                                             "\"web\"",
                                             "true",
                                             "2",
                                             "0.5",
                                             "\n",
                                             "=",
                                             "[",
                                             "]",
                                             "{",
                                             "}",
                                             "grace_seconds",
                                             "nan",
                                             "-"};
// NUL ends an argument.
constexpr std::string_view kQemuWords[] = {std::string_view("\0", 1),
                                           "-object",
                                           "memory-backend-memfd",
                                           ",id=r",
                                           ",share=on",
                                           ",size=1G",
                                           "-machine",
                                           "memory-backend=r",
                                           "-drive",
                                           "file=x",
                                           ",cache=none",
                                           "-blockdev",
                                           "{",
                                           "}",
                                           "\"driver\":\"file\"",
                                           "\"filename\":\"x\"",
                                           "\"cache\":",
                                           "\"direct\":true",
                                           ",",
                                           "-device",
                                           "vfio-pci",
                                           "-m",
                                           "512",
                                           "-numa",
                                           "node,memdev=r",
                                           "-name",
                                           "guest=web",
                                           "=",
                                           "-overcommit",
                                           "mem-lock=on",
                                           "help",
                                           "-readconfig",
                                           "[object \"r\"]\n",
                                           "[machine]\n",
                                           "[drive \"d\"]\n",
                                           "size = \"1G\"\n",
                                           "file = \"x\"\n",
                                           "\"file\":{",
                                           "\"children\":[",
                                           "]",
                                           ",file.file.filename=",
                                           ",file.cache.direct=on",
                                           "json:{",
                                           "pc-dimm,memdev=r"};

std::string spelled(std::span<const std::string_view> words, std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) {
    if (byte < words.size()) {
      text += words[byte];
    } else {
      text += static_cast<char>(byte);
    }
  }
  return text;
}

void try_request(const std::string& text) {
  const auto parsed = control::parse_request(text);
  if (!parsed.request) {
    ENSURE(parsed.request.error().failure == control::Failure::bad_request);
    return;
  }
  std::string again = control::encode(*parsed.request);
  ENSURE(again.ends_with('\n'));
  again.pop_back();
  ENSURE(again.find('\n') == std::string::npos);
  const auto second = control::parse_request(again);
  ENSURE(second.request.has_value() && *second.request == *parsed.request);
}

void try_reply(const std::string& text) {
  const auto reply = control::parse_reply(text);
  ENSURE(reply || !reply.error().what.empty());
}

void try_config(const std::string& text) {
  const auto config = policy::parse_config(text, "f.toml");
  if (!config) {
    ENSURE(config.error().what.starts_with("f.toml:"));
    return;
  }
  ENSURE(config->scan.cpu <= config->scan.threads);
  ENSURE(config->fold.passes >= 1);
}

void try_command_line(const std::string& text) {
  std::vector<std::string> arguments{"qemu-system-x86_64"};
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto end = rest.find('\0');
    arguments.emplace_back(rest.substr(0, end));
    if (end == std::string_view::npos) break;
    rest.remove_prefix(end + 1);
  }
  // A file that it names says what the line says.
  const auto read = [&](const std::string&) -> Result<std::string> { return text; };
  const cli::QemuAdvice advice = cli::examine(arguments, read);
  for (const auto& reason : advice.reasons) ENSURE(!reason.remedy.empty());
  ENSURE(advice.unread.empty() || (advice.blocks.empty() && advice.ram == ByteCount{0}));
  if (const auto groups = cli::parse_qemu_config(text)) {
    for (const cli::ConfigGroup& group : *groups) ENSURE(!group.name.empty());
  }
  const std::string shown = printable(text);
  ENSURE(shown.find('\x1b') == std::string::npos);
  ENSURE(printable(shown) == shown);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> rest(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0: try_request(spelled(kRequestWords, rest)); break;
    case 1: try_reply(spelled(kReplyWords, rest)); break;
    case 2: try_config(spelled(kConfigWords, rest)); break;
    default: try_command_line(spelled(kQemuWords, rest)); break;
  }
  return 0;
}
