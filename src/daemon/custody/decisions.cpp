// SPDX-License-Identifier: GPL-2.0-or-later
#include "daemon/custody/decisions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>

#include "sys/durable_file.hpp"

namespace ramfold::daemon {
namespace {

constexpr const char* kName = "decisions";
constexpr std::string_view kHead = "ramfold-decisions 1";
// A line has a name and a value of at most 63 bytes each, written as %XX, and about 250 others.
constexpr std::size_t kFileBytesMax = (kDecidedVmsMax + kSetValuesMax + 8) * 1024;
constexpr std::size_t kNameBytesMax = 256;
constexpr std::array<std::pair<VmDecision, std::string_view>, 2> kVmWords{
    {{VmDecision::paused, "paused"}, {VmDecision::detached, "detached"}}};

std::uint64_t fnv1a(std::string_view text) noexcept {
  std::uint64_t sum = 0xcbf29ce484222325;
  for (const char c : text) sum = (sum ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return sum;
}

bool is_plain(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == '-';
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (is_plain(c)) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

std::optional<std::string> unescaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      if (!is_plain(text[i])) return std::nullopt;
      out += text[i];
      continue;
    }
    unsigned byte = 0;
    const char* const digits = text.data() + i + 1;
    if (i + 2 >= text.size() || std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) {
      return std::nullopt;
    }
    out += static_cast<char>(byte);
    i += 2;
  }
  if (out.size() > kNameBytesMax) return std::nullopt;
  return out;
}

std::string_view word(std::string_view& line, char end = ' ') {
  const std::size_t at = line.find(end);
  const std::string_view found = line.substr(0, at);
  line.remove_prefix(at == std::string_view::npos ? line.size() : at + 1);
  return found;
}

template <typename Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::string_view> value_of(std::string_view& line, std::string_view key) {
  std::string_view text = word(line);
  if (!text.starts_with(key)) return std::nullopt;
  text.remove_prefix(key.size());
  return text;
}

std::optional<VmKey::Process> read_process(std::string_view text) {
  const auto pid = number<pid_t>(word(text, ','));
  const auto start = number<std::uint64_t>(word(text, ','));
  if (!pid || !start || text.empty()) return std::nullopt;
  return VmKey::Process{*pid, *start, std::string(text)};
}

// "uid=107 uuid= name=web"
std::optional<VmKey> read_key(std::string_view line) {
  const auto uid_text = value_of(line, "uid=");
  const auto uuid_text = value_of(line, "uuid=");
  const auto name_text = value_of(line, "name=");
  if (!uid_text || !uuid_text || !name_text) return std::nullopt;
  const auto uid = number<std::uint32_t>(*uid_text);
  const auto name = unescaped(*name_text);
  const auto uuid = unescaped(*uuid_text);
  if (!uid || !name || !uuid) return std::nullopt;
  VmKey key{*name, *uuid, *uid, std::nullopt};
  if (line.empty()) return key;
  const auto process_text = value_of(line, "process=");
  key.process = process_text ? read_process(*process_text) : std::nullopt;
  if (!key.process || !line.empty()) return std::nullopt;
  return key;
}

std::string text_of(const VmKey& vm) {
  std::string text =
      fmt::format("uid={} uuid={} name={}", vm.uid, escaped(vm.uuid), escaped(vm.name));
  if (const auto& p = vm.process) {
    text += fmt::format(" process={},{},{}", p->pid, p->start_ticks, p->boot);
  }
  return text;
}

// "fold.lz4=false"
std::optional<DecisionBook::Set> read_set(std::string_view text) {
  const auto key = unescaped(word(text, '='));
  const auto value = unescaped(text);
  if (!key || !value || key->empty() || value->empty()) return std::nullopt;
  return DecisionBook::Set{*key, *value, std::nullopt};
}

// "paused 1764487258 uid=107 uuid= name=web"
std::optional<DecisionBook::OfVm> read_vm(std::string_view line) {
  const std::string_view what = word(line);
  const auto* const known =
      std::ranges::find(kVmWords, what, [](const auto& w) { return w.second; });
  const auto since = number<std::int64_t>(word(line));
  auto key = read_key(line);
  if (known == kVmWords.end() || !since || !key) return std::nullopt;
  return DecisionBook::OfVm{known->first, *since, std::move(*key)};
}

bool read_line(std::string_view line, DecisionBook& book) {
  const std::string_view kind = word(line);
  if (kind == "off") return (book.off = number<std::int64_t>(line)).has_value();
  if (kind == "paused") return (book.paused = number<std::int64_t>(line)).has_value();
  if (kind == "set" || kind == "set-vm") {
    auto set = book.set.size() < kSetValuesMax ? read_set(word(line)) : std::nullopt;
    if (!set) return false;
    if (kind == "set-vm") set->vm = read_key(line);
    if (kind == "set-vm" ? !set->vm : !line.empty()) return false;
    book.set.push_back(std::move(*set));
    return true;
  }
  if (kind != "vm" || book.vms.size() == kDecidedVmsMax) return false;
  auto vm = read_vm(line);
  if (vm) book.vms.push_back(std::move(*vm));
  return vm.has_value();
}

std::int64_t now() { return static_cast<std::int64_t>(std::time(nullptr)); }

auto is_about(VmDecision what, const VmKey& vm) {
  return [what, &vm](const DecisionBook::OfVm& one) { return one.what == what && one.vm.is(vm); };
}

}  // namespace

bool VmKey::is(const VmKey& other) const {
  if (uid != other.uid) return false;
  if (process || other.process) return process == other.process;
  if (!uuid.empty() && !other.uuid.empty()) return uuid == other.uuid;
  return name == other.name;
}

std::string text_of(const DecisionBook& book) {
  std::string text = fmt::format("{}\n", kHead);
  if (book.off) text += fmt::format("off {}\n", *book.off);
  if (book.paused) text += fmt::format("paused {}\n", *book.paused);
  for (const DecisionBook::OfVm& one : book.vms) {
    const auto* const what =
        std::ranges::find(kVmWords, one.what, [](const auto& w) { return w.first; });
    text += fmt::format("vm {} {} {}\n", what->second, one.since, text_of(one.vm));
  }
  for (const DecisionBook::Set& one : book.set) {
    text +=
        fmt::format("{} {}={}", one.vm ? "set-vm" : "set", escaped(one.key), escaped(one.value));
    text += one.vm ? " " + text_of(*one.vm) + "\n" : "\n";
  }
  return text + fmt::format("end {:016x}\n", fnv1a(text));
}

Result<DecisionBook> read_decisions(std::string_view text) {
  const std::string_view whole = text;
  if (word(text, '\n') != kHead) return fail("its first line is not that of this version");
  DecisionBook book;
  for (;;) {
    const auto before = static_cast<std::size_t>(text.data() - whole.data());
    if (text.find('\n') == std::string_view::npos) return fail("its end is missing");
    const std::string_view line = word(text, '\n');
    if (line.starts_with("end ")) {
      if (line != fmt::format("end {:016x}", fnv1a(whole.substr(0, before)))) {
        return fail("its checksum is wrong");
      }
      if (!text.empty()) return fail("something follows its end");
      return book;
    }
    if (!read_line(line, book)) return fail("it has a line that this version does not know");
  }
}

std::string Decisions::boot_id() {
  const auto text = sys::read_small_file("/proc/sys/kernel/random/boot_id", 64);
  if (!text || !*text) return "unknown";
  std::string_view line = **text;
  return std::string(word(line, '\n'));
}

void Decisions::load() {
  const auto file = sys::read_small_file(path(), kFileBytesMax);
  const MutexLock lock(mutex_);
  if (!file) {
    unreadable_ = file.error().text();
    return;
  }
  if (!*file) return;
  auto book = read_decisions(**file);
  if (!book) {
    unreadable_ = path() + ": " + book.error().text();
    return;
  }
  book_ = std::move(*book);
  std::erase_if(book_.vms, [this](const DecisionBook::OfVm& one) {
    return one.vm.process && one.vm.process->boot != boot_;
  });
  std::erase_if(book_.set, [this](const DecisionBook::Set& one) {
    return one.vm && one.vm->process && one.vm->process->boot != boot_;
  });
}

VmKey Decisions::key_of(std::string_view name, std::string_view uuid, std::uint32_t uid, pid_t pid,
                        std::uint64_t start_ticks) const {
  VmKey key{std::string(name), std::string(uuid), uid, std::nullopt};
  if (uuid.empty() && name == fmt::format("qemu-{}", pid)) {
    key.process = VmKey::Process{pid, start_ticks, boot_};
  }
  return key;
}

std::optional<std::string> Decisions::unreadable() const {
  const MutexLock lock(mutex_);
  return unreadable_;
}

std::optional<std::string> Decisions::unsaved() const {
  const MutexLock lock(mutex_);
  return unsaved_;
}

std::optional<std::int64_t> Decisions::since(HostDecision what) const {
  const MutexLock lock(mutex_);
  return what == HostDecision::off ? book_.off : book_.paused;
}

std::optional<std::int64_t> Decisions::since(VmDecision what, const VmKey& vm) const {
  const MutexLock lock(mutex_);
  const auto found = std::ranges::find_if(book_.vms, is_about(what, vm));
  return found == book_.vms.end() ? std::nullopt : std::optional(found->since);
}

Status Decisions::write(const DecisionBook& book) {
  if (const auto why = unreadable()) return fail("the earlier decisions cannot be read: " + *why);
  return sys::replace_file(directory_, kName, text_of(book));
}

// The change is in force at once, then it is written.
template <typename Change>
Status Decisions::change_first(Change change) {
  const MutexLock writing(writing_);
  DecisionBook changed;
  {
    const MutexLock lock(mutex_);
    if (Status done = change(book_); !done) return done;
    changed = book_;
  }
  const Status written = write(changed);
  const MutexLock lock(mutex_);
  unsaved_ = written ? std::nullopt : std::optional(written.error().text());
  return written;
}

// The change is written, then it is in force. False: `change` changed nothing.
template <typename Change>
Result<bool> Decisions::change_when_written(Change change) {
  const MutexLock writing(writing_);
  DecisionBook changed;
  {
    const MutexLock lock(mutex_);
    changed = book_;
  }
  if (!change(changed)) return false;
  if (Status written = write(changed); !written) return std::unexpected(written.error());
  const MutexLock lock(mutex_);
  book_ = std::move(changed);
  unsaved_.reset();
  return true;
}

Status Decisions::decide(HostDecision what) {
  return change_first([what](DecisionBook& book) -> Status {
    auto& since = what == HostDecision::off ? book.off : book.paused;
    since = since.value_or(now());
    return {};
  });
}

Status Decisions::decide(VmDecision what, const VmKey& vm) {
  return change_first([what, &vm](DecisionBook& book) -> Status {
    if (std::ranges::any_of(book.vms, is_about(what, vm))) return {};
    if (book.vms.size() == kDecidedVmsMax) {
      return fail(fmt::format("{} VMs are paused or detached already", kDecidedVmsMax), ENOSPC);
    }
    book.vms.push_back({what, now(), vm});
    return {};
  });
}

Status Decisions::take_back_host() {
  const auto done = change_when_written([](DecisionBook& book) {
    const bool any = book.off || book.paused;
    book.off.reset();
    book.paused.reset();
    return any;
  });
  return done ? Status{} : std::unexpected(done.error());
}

Result<bool> Decisions::take_back(VmDecision what, const VmKey& vm) {
  return change_when_written(
      [&](DecisionBook& book) { return std::erase_if(book.vms, is_about(what, vm)) != 0; });
}

Result<bool> Decisions::take_back(VmDecision what, std::string_view name_or_uuid) {
  return change_when_written([&](DecisionBook& book) {
    return std::erase_if(book.vms, [&](const DecisionBook::OfVm& one) {
             return one.what == what && (one.vm.name == name_or_uuid ||
                                         (!one.vm.uuid.empty() && one.vm.uuid == name_or_uuid));
           }) != 0;
  });
}

std::vector<DecisionBook::Set> Decisions::set_values() const {
  const MutexLock lock(mutex_);
  return book_.set;
}

Status Decisions::replace_set_values(std::vector<DecisionBook::Set> values) {
  if (values.size() > kSetValuesMax) {
    return fail(fmt::format("{} values are set already", kSetValuesMax), ENOSPC);
  }
  const auto done = change_when_written([&values](DecisionBook& book) {
    book.set = std::move(values);
    return true;
  });
  return done ? Status{} : std::unexpected(done.error());
}

bool Decisions::write_again() {
  if (!unsaved() || unreadable()) return false;
  return change_first([](DecisionBook&) -> Status { return {}; }).has_value();
}

Status Decisions::begin_anew() {
  const MutexLock writing(writing_);
  if (std::rename(path().c_str(), (path() + ".unreadable").c_str()) != 0 && errno != ENOENT) {
    return fail_errno("rename " + path());
  }
  const MutexLock lock(mutex_);
  unreadable_.reset();
  return {};
}

}  // namespace ramfold::daemon
