// SPDX-License-Identifier: GPL-2.0-or-later
// A VM whose RAM, agent and daemon are in this process: the agent's core, RAM that it has listed, a
// pool, and the daemon's halves of mapping and restoring. The agent's RAM is fixed once it was
// offered, so there is one rig for all cases; each uses a window of its own.
// Threads: the test's, and writers of RAM.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <map>
#include <memory>
#include <thread>

#include "agent/wire.h"
#include "base/page_copy.hpp"
#include "fold/restoring.hpp"
#include "fold/sharing.hpp"
#include "kernel/agent_ram.hpp"
#include "patience.hpp"
#include "sys/memory.hpp"

extern "C" {
void rf_command_run(const struct rf_command* command, struct rf_answer* answer);
bool rf_mapping_pool(int fd);
int rf_mapping_dontneed(void* at, size_t size);
const char* rf_mapping_obstacle(const unsigned ids[3], const char* release);
int rf_test_discard(int fd, off_t offset, off_t size);
}

namespace ramfold::test {

using fold::Settled;
using guest::Tag;
using namespace std::chrono_literals;

// The agent, asked without a socket.
class CorePort final : public guest::AgentPort {
 public:
  bool is_open() override { return !closed; }
  using AgentPort::send;
  std::expected<guest::AgentToken, guest::NotSent> send(
      guest::AgentAct act, std::span<const PageRun> runs,
      std::span<const ByteCount> in_pool) override {
    if (closed) return std::unexpected(guest::NotSent::closed);
    rf_map_command message{};
    message.c.h.length = sizeof message;
    message.c.act = static_cast<std::uint32_t>(act);
    message.c.runs = static_cast<std::uint32_t>(runs.size());
    for (std::size_t i = 0; i < runs.size(); ++i)
      message.c.run[i] = {runs[i].first.value << kPageShift, bytes(runs[i].count).value};
    for (std::size_t i = 0; i < in_pool.size(); ++i) message.pool[i] = in_pool[i].value;
    ++runs_sent;
    if (loses) {
      left = message;
    } else {
      carry_out(message);
    }
    return guest::AgentToken{1};
  }
  std::optional<guest::AgentAnswer> take(guest::AgentToken, std::chrono::milliseconds) override {
    if (loses) return guest::AgentAnswer::lost;
    return last.status == RF_ANSWER_DONE      ? guest::AgentAnswer::done
           : last.status == RF_ANSWER_REFUSED ? guest::AgentAnswer::refused
                                              : guest::AgentAnswer::failed;
  }
  void give_up(guest::AgentToken) override {}
  void carry_out(const rf_map_command& message) {
    rlimit before{};
    REQUIRE(::getrlimit(limited, &before) == 0);
    const rlimit none{1, before.rlim_max};  // of data, 0 would not count
    if (fails) (void)::setrlimit(limited, &none);
    rf_command_run(&message.c, &last);
    if (fails) (void)::setrlimit(limited, &before);
  }

  // The kernel refuses what this limit is about while the agent works.
  bool fails = false;
  __rlimit_resource limited = RLIMIT_DATA;
  bool closed = false;
  bool loses = false;  // the connection ends before the answer; `left` may run later
  rf_map_command left{};
  rf_answer last{};
  unsigned runs_sent = 0;
};

class AllButOne final : public guest::QuietProof {
 public:
  guest::ProofAnswer ask(guest::Vm&, PageRun run, guest::PageMask) noexcept override {
    guest::ProofAnswer answer{guest::all_pages(run.count), guest::all_pages(run.count)};
    if (held >= run.first && held < run.end())
      answer.quiet &= static_cast<guest::PageMask>(~(1u << (held.value - run.first.value)));
    return answer;
  }
  PageIndex held{~std::uint64_t{0}};  // but this one
};

// Content n lies in slot n, and is a page whose first byte is n. Freed slots are overwritten, as
// if another VM had got them.
class TestPool final : public fold::SharedPool {
 public:
  static constexpr unsigned kSlots = 4096;
  TestPool() {
    file_ = sys::Fd(::memfd_create("test-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    REQUIRE(::ftruncate(file_.get(), off_t{kSlots} * kPageSize) == 0);
    REQUIRE(::fchmod(file_.get(), 0444) == 0);
    REQUIRE(::fcntl(file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
  }
  int read_only() const {
    const std::string path = "/proc/self/fd/" + std::to_string(file_.get());
    return ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  }
  guest::RamFileId file() const noexcept override {
    struct stat s{};
    (void)::fstat(file_.get(), &s);
    return {s.st_dev, s.st_ino};
  }
  bool take(PageIndex first, std::span<const ContentId> contents,
            std::span<std::optional<ByteCount>> out) noexcept override {
    bool all_without = true;
    for (std::size_t i = 0; i < contents.size(); ++i) {
      out[i] = std::nullopt;
      if (none_left || contents[i] == kZeroContent) continue;
      if (taken_.contains(first.value + i)) {
        all_without = false;
        continue;
      }
      const std::uint32_t slot = contents[i].value;
      out[i] = ByteCount{std::uint64_t{slot} << kPageShift};
      if (users_[slot]++ == 0) write(slot, slot);
      taken_[first.value + i] = slot;
    }
    return all_without;
  }
  void give_back(PageIndex p) noexcept override {
    const auto slot = taken_.find(p.value);
    if (slot == taken_.end()) std::abort();
    if (--users_[slot->second] == 0) write(slot->second, 0xEE);
    taken_.erase(slot);
  }
  Status read(ByteCount offset, std::byte* to) const noexcept override {
    if (::pread(file_.get(), to, kPageSize, static_cast<off_t>(offset.value)) != kPageSize)
      return fail_errno("pread");
    return {};
  }
  std::size_t taken() const { return taken_.size(); }
  bool none_left = false;

 private:
  void write(std::uint32_t slot, std::uint32_t byte) {
    std::array<char, kPageSize> page{};
    page[0] = static_cast<char>(byte);
    if (::pwrite(file_.get(), page.data(), kPageSize, off_t{slot} * kPageSize) != kPageSize)
      std::abort();
  }
  sys::Fd file_;
  std::map<std::uint64_t, std::uint32_t> taken_;
  std::map<std::uint32_t, unsigned> users_;
};

// Who serves the faults: a thread of the rig's, as for pages that are not folded; or the test.
enum class ServedBy : bool { rig, test };

class MappingRig {
 public:
  static constexpr PageCount kPages{4096};
  static MappingRig& get() {
    static MappingRig& rig = *new MappingRig(ServedBy::rig);  // a thread uses it to the end
    return rig;
  }
  // The only one of its process.
  explicit MappingRig(ServedBy served_by)
      : MappingRig(served_by, sys::Fd(::memfd_create("memory-backend-memfd", MFD_CLOEXEC))) {}
  // `ram`: its RAM file, without pages.
  MappingRig(ServedBy served_by, sys::Fd ram) : ram_(std::move(ram)) {
    make();
    if (served_by == ServedBy::rig) std::thread([this] { serve(); }).detach();
  }

  volatile char* at(std::uint64_t page) const { return base_ + page * kPageSize; }
  Tag tag(std::uint64_t page) { return vm->table().load(PageIndex{page}).value().tag(); }
  static PageRun window(std::uint64_t first, std::uint64_t count = 16) {
    return {PageIndex{first}, PageCount{count}};
  }
  // A page of content n.
  void fill(std::uint64_t page, unsigned n) {
    std::memset(const_cast<char*>(at(page)), 0, kPageSize);
    *at(page) = static_cast<char>(n);
  }
  // Pages from `first` on get contents from `content` on, and are mapped. The mask that was.
  guest::PageMask share(std::uint64_t first, std::uint32_t content, std::uint64_t count = 16) {
    const auto believed = contents(content);
    fold::SharingRun run(*vm, vmas, proof, pool, window(first, count),
                         std::span(believed).first(count));
    REQUIRE(run.map(port, 1s) == Settled::yes);
    return run.mapped();
  }
  guest::PageMask restore(std::uint64_t first, std::uint64_t count = 16) {
    fold::RestoringRun run(*vm, vmas, proof, pool, window(first, count));
    REQUIRE(run.restore(port, 1s) == Settled::yes);
    return run.restored();
  }
  static std::array<ContentId, 16> contents(std::uint32_t first) {
    std::array<ContentId, 16> all;
    for (unsigned i = 0; i < 16; ++i) all[i] = ContentId{first + i};
    return all;
  }
  bool maps_pool(std::uint64_t page) const {
    const auto range = vmas.at(vm->address_of(PageIndex{page}));
    REQUIRE(range.has_value());
    REQUIRE(range->has_value());
    return guest::RamFileId{(*range)->device, (*range)->inode} == pool.file();
  }
  // The mappings that RAM consists of.
  unsigned mappings() const {
    unsigned n = 0;
    for (std::uint64_t a = base(); a < base() + bytes(kPages).value; ++n) {
      const auto range = vmas.at(HostVirt{a});
      REQUIRE(range.has_value());
      REQUIRE(range->has_value());
      a = (*range)->end;
    }
    return n;
  }
  bool in_ram_file(std::uint64_t page) const {
    const auto offset = static_cast<off_t>(page * kPageSize);
    return ::lseek(ram_.get(), offset, SEEK_DATA) == offset;
  }
  int discard(std::uint64_t page, std::uint64_t count) {
    return rf_test_discard(ram_.get(), static_cast<off_t>(page * kPageSize),
                           static_cast<off_t>(count * kPageSize));
  }
  std::uint64_t base() const { return reinterpret_cast<std::uint64_t>(base_); }
  int ram() const { return ram_.get(); }

  TestPool pool;
  CorePort port;
  AllButOne proof;
  std::unique_ptr<guest::Vm> vm;
  sys::VmaQuery vmas{::getpid(), sys::BorrowedFd(-1)};

 private:
  void make() {
    AgentRam ram = make_agent_ram(ram_, kPages);
    base_ = ram.base;
    const int shared = ::dup(ram.files.shared.get());
    auto made = guest::Vm::make(ram.record, std::move(ram.files));
    REQUIRE(made.has_value());
    vm = std::move(*made);
    share_with_agent(*vm, shared);
    (void)vm->gate().open(0, vm->gate().epoch());
    REQUIRE(rf_mapping_pool(pool.read_only()));
    // One mapping from the begin: what is registered differs from what is not.
    for (std::uint64_t p = 0; p < kPages.value; p += guest::kChunkPages.value)
      REQUIRE(vm->ensure_registered(PageIndex{p}).outcome == sys::Outcome::done);
  }
  // As a fault thread does with pages that are not folded. For ever: it must outlive every waiter.
  void serve() {
    for (;;) {
      pollfd ready{vm->uffd().fd(), POLLIN, 0};
      (void)::poll(&ready, 1, -1);
      std::array<uffd_msg, 16> events;
      const auto n = vm->uffd().read_events(events);
      for (std::size_t i = 0; n && i < *n; ++i) {
        const auto p = vm->page_at(HostVirt{events[i].arg.pagefault.address});
        if (!p || vm->table().take_for_fill(*p) == guest::Taken::busy) continue;
        const sys::UffdRange range = vm->range_of({*p, PageCount{1}});
        if ((events[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0) {
          (void)vm->uffd().lift(range, sys::Wake::no);
        } else {
          (void)vm->uffd().zero(range, sys::Wake::no);
        }
        vm->wake({*p, PageCount{1}});
        vm->release(*p);
      }
    }
  }

  sys::Fd ram_;
  char* base_ = nullptr;
};

}  // namespace ramfold::test
