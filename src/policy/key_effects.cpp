// SPDX-License-Identifier: GPL-2.0-or-later
#include "policy/key_effects.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <type_traits>

#include "policy/amount.hpp"
#include "policy/choices.hpp"

namespace ramfold::policy {
namespace {

template <typename T>
std::string text_of(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(word_of(value));
  } else if constexpr (std::is_same_v<T, MemoryAmount>) {
    if (value.relative()) return fmt::format("{}%", value.percent());
    return fmt::format("{}", value.resolve(ByteCount{0}).value);
  } else {
    return fmt::format("{}", value);
  }
}

// `member`: a function that gives the key's member of a Config.
template <auto member>
constexpr KeyEffect key(std::string_view path, Takes takes, std::string_view how) {
  return {path, takes, how, [](const Config& config) { return text_of(member(config)); },
          [](Config& to, const Config& from) { member(to) = member(from); }};
}
constexpr KeyEffect vm_key(std::string_view path, Takes takes, std::string_view how) {
  return {path, takes, how};
}

constexpr std::string_view kGroupOfVm =
    "a VM gets its trust group when it is attached; set at run time, it attaches the VM anew";

#define MEMBER(name) [](auto& config) -> auto& { return config.name; }
constexpr std::array kEffects{
    key<MEMBER(runtime_dir)>("runtime_dir", Takes::at_start, "the sockets are made at a start"),
    key<MEMBER(state_dir)>("state_dir", Takes::at_start, "its files are read at a start"),
    key<MEMBER(control_group)>("control_group", Takes::at_start,
                               "control.sock gets its group when it is made"),
    key<MEMBER(agent_group)>("agent_group", Takes::at_start,
                             "agent.sock gets its group when it is made"),
    key<MEMBER(log_level)>("log_level", Takes::at_once, "from the next line of the log on"),
    key<MEMBER(fold.when)>("fold.when", Takes::at_once, "the host is judged anew"),
    key<MEMBER(fold.keep_available)>("fold.keep_available", Takes::at_once,
                                     "the host is judged anew"),
    key<MEMBER(fold.passes)>("fold.passes", Takes::at_once, "from the next chunk of RAM on"),
    key<MEMBER(fold.pass_seconds)>("fold.pass_seconds", Takes::at_once,
                                   "for the pass that runs, too"),
    key<MEMBER(fold.backoff)>("fold.backoff", Takes::at_once, "from the next chunk of RAM on"),
    key<MEMBER(fold.backoff_seconds_max)>("fold.backoff_seconds_max", Takes::at_once,
                                          "from the next chunk of RAM on"),
    key<MEMBER(fold.zero)>("fold.zero", Takes::at_once, "for pages that leave from then on"),
    key<MEMBER(fold.share)>("fold.share", Takes::at_attach,
                            "it decides the trust group, which a VM gets when it is attached"),
    key<MEMBER(fold.lz4)>("fold.lz4", Takes::at_once, "for pages that leave from then on"),
    key<MEMBER(fold.map)>("fold.map", Takes::at_once, "from the next chunk of RAM on"),
    key<MEMBER(fold.stall_budget)>("fold.stall_budget", Takes::at_once,
                                   "when the controllers decide next"),
    key<MEMBER(reform.policy)>("reform.policy", Takes::at_once, "from the next contents on"),
    key<MEMBER(reform.cpu)>("reform.cpu", Takes::at_once, "from the next contents on"),
    key<MEMBER(reform.similar)>("reform.similar", Takes::at_once, "from the next contents on"),
    key<MEMBER(reform.zstd)>("reform.zstd", Takes::at_once, "from the next contents on"),
    key<MEMBER(reform.mix)>("reform.mix", Takes::at_once, "from the next contents on"),
    key<MEMBER(scan.cpu)>("scan.cpu", Takes::at_once, "from the next chunk of RAM on"),
    key<MEMBER(scan.threads)>("scan.threads", Takes::at_once,
                              "threads are started, or end after their chunk of RAM"),
    key<MEMBER(scan.referenced)>("scan.referenced", Takes::at_once, "from the next pass on"),
    key<MEMBER(fault.threads_per_vm)>("fault.threads_per_vm", Takes::at_attach,
                                      "a VM's fault service is made when it is attached"),
    key<MEMBER(host.reserve)>("host.reserve", Takes::at_once, "the host is judged anew"),
    key<MEMBER(host.unbacked_max)>("host.unbacked_max", Takes::at_once, "the host is judged anew"),
    key<MEMBER(host.arena_max)>("host.arena_max", Takes::at_start,
                                "the store is made once, and is made anew only after an `off`"),
    key<MEMBER(host.vm_ram_factor_max)>("host.vm_ram_factor_max", Takes::at_attach,
                                        "it is a condition of being attached"),
    key<MEMBER(host.vm_kept_factor_max)>("host.vm_kept_factor_max", Takes::at_once,
                                         "all VMs are compared with it anew"),
    key<MEMBER(group_default)>("groups.default", Takes::at_attach,
                               "a VM gets its trust group when it is attached"),
    vm_key("vm.name", Takes::at_once, "it is looked up anew which section fits a VM"),
    vm_key("vm.uuid", Takes::at_once, "it is looked up anew which section fits a VM"),
    vm_key("vm.user", Takes::at_once, "it is looked up anew which section fits a VM"),
    vm_key("vm.uid", Takes::at_once, "it is looked up anew which section fits a VM"),
    vm_key("vm.group", Takes::at_attach, kGroupOfVm),
    vm_key("vm.fold", Takes::at_once, "for pages that leave from then on"),
    vm_key("vm.zero", Takes::at_once, "for pages that leave from then on"),
    vm_key("vm.share", Takes::at_attach, kGroupOfVm),
    vm_key("vm.lz4", Takes::at_once, "for pages that leave from then on"),
    vm_key("vm.map", Takes::at_once, "from the next chunk of RAM on"),
    vm_key("vm.when", Takes::at_once, "for pages that leave from then on"),
    vm_key("vm.passes", Takes::at_once, "from the VM's next chunk of RAM on"),
    vm_key("vm.stall_budget", Takes::at_once, "when the VM's controller decides next"),
    vm_key("vm.resident_floor", Takes::at_once, "when the VM's controller decides next"),
};
#undef MEMBER

}  // namespace

std::span<const KeyEffect> key_effects() { return kEffects; }

const KeyEffect* effect_of(std::string_view path) {
  const auto* const found = std::ranges::find(kEffects, path, &KeyEffect::path);
  return found == kEffects.end() ? nullptr : &*found;
}

std::string_view words_of(Takes takes) {
  switch (takes) {
    case Takes::at_once: return "at once";
    case Takes::at_attach: return "at the next attach";
    case Takes::at_start: return "at the next start";
  }
  return "?";
}

Config with_keys_of_start(Config read, const Config& running) {
  for (const KeyEffect& effect : kEffects) {
    if (effect.takes == Takes::at_start && effect.copy != nullptr) effect.copy(read, running);
  }
  return read;
}

std::vector<const KeyEffect*> waiting_for_start(const Config& read, const Config& running) {
  std::vector<const KeyEffect*> waiting;
  for (const KeyEffect& effect : kEffects) {
    if (effect.takes != Takes::at_start || effect.shown == nullptr) continue;
    if (effect.shown(read) != effect.shown(running)) waiting.push_back(&effect);
  }
  return waiting;
}

}  // namespace ramfold::policy
