// SPDX-License-Identifier: GPL-2.0-or-later
// A daemon that begins, and pages that map the pool: which of them do, what an earlier daemon left
// in the middle, and that no slot is freed that a page maps. The agent's core is in this process,
// with a real store, pool, page table and fault service; a restart makes all of these anew from
// their files.
#include "daemon/custody/mapping_recovery.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/custody/recovery.hpp"
#include "fold/recovering.hpp"
#include "guest/ram_mapping.hpp"
#include "kernel/fold_rig.hpp"
#include "kernel/mapping_rig.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using namespace ramfold::test;
using store::PoolSlot;

namespace {

constexpr PageCount kPages{1024};
constexpr guest::PageMask kAll = 0xffff;

template <typename T>
T must(Result<T> result) {
  if (!result) FAIL(result.error().text());
  return std::move(*result);
}

// What outlives a daemon.
struct Kept {
  guest::VmRecord record;
  guest::Vm::Files files;
  store::StoreFiles store;
};

class CustodyRig {
 public:
  static CustodyRig& get() {
    static CustodyRig& rig = *new CustodyRig;  // RAM and agent are once for the process
    return rig;
  }

  // Kills the daemon, and begins another up to where it serves faults. lost: this one does not get
  // the pool; the next one does.
  enum class Pools : bool { kept, lost };
  void restart(Pools pools = Pools::kept) {
    restart_uncounted(pools);
    count();
  }
  void restart_uncounted(Pools pools = Pools::kept) {
    Kept kept = keep();
    leave();
    std::ranges::move(std::exchange(lost_pools_, {}), std::back_inserter(kept.store.pools));
    if (pools == Pools::lost) lost_pools_ = std::exchange(kept.store.pools, {});
    contents = must(store::Contents::adopt(std::move(kept.store)));
    begin(kept.record, std::move(kept.files), false);
    vm().wake_all();
  }
  void count() { REQUIRE(daemon::count_references(*attached, *contents, stop)); }
  Result<daemon::MappingsFound> recover() {
    return daemon::recover_mappings(*attached, *contents, stop);
  }
  void finish() {
    REQUIRE(contents->finish_recovery().has_value());
    REQUIRE(contents->mappings_known(attached->group).has_value());
  }

  guest::Vm& vm() { return *attached->vm; }
  fold::VmPool& pool() { return *attached->pool; }
  volatile char* at(std::uint64_t page) const { return base_ + page * kPageSize; }
  Tag tag(std::uint64_t page) { return vm().table().load(PageIndex{page}).value().tag(); }
  static PageRun window(std::uint64_t first) { return {PageIndex{first}, PageCount{16}}; }
  // Two windows with the same sixteen contents, each page of one begins with its number.
  void fill_twice(std::uint64_t first, unsigned content) {
    for (unsigned i = 0; i < 32; ++i) {
      std::memset(const_cast<char*>(at(first + i)), 0, kPageSize);
      *at(first + i) = static_cast<char>(content + i % 16);
      at(first + i)[1] = static_cast<char>(first / 16);
    }
  }
  // A run over one window, whose pages equal contents. It holds a reference for each page.
  std::unique_ptr<fold::SharingRun> sharing(std::uint64_t first) {
    std::array<ContentId, 16> ids;
    for (unsigned i = 0; i < 16; ++i) ids[i] = put(first + i);
    return std::make_unique<fold::SharingRun>(vm(), vmas, proof, pool(), window(first), ids);
  }
  ContentId put(std::uint64_t page) {
    PageCopy copy;
    std::memcpy(copy.bytes.data(), const_cast<char*>(at(page)), kPageSize);
    auto stored = must(contents->put(attached->group, copy, contents->hash(attached->group, copy)));
    return stored.ref.release();
  }
  void share_twice(std::uint64_t first, unsigned content) {
    fill_twice(first, content);
    std::array<ContentId, 16> ids;
    for (unsigned i = 0; i < 16; ++i) ids[i] = put(first + i);
    for (unsigned i = 0; i < 16; ++i) (void)put(first + 16 + i);
    for (const std::uint64_t from : {first, first + 16}) {
      fold::SharingRun run(vm(), vmas, proof, pool(), window(from), ids);
      REQUIRE(run.map(port, 1s) == Settled::yes);
      REQUIRE(run.mapped() == kAll);
    }
  }
  guest::PageMask restore(std::uint64_t first) {
    fold::RestoringRun run(vm(), vmas, proof, pool(), window(first));
    REQUIRE(run.restore(port, 1s) == Settled::yes);
    fold::for_each_bit(run.restored(), [&](unsigned i) {
      CHECK(contents->drop(attached->group, run.content(i)) == store::Booked::done);
    });
    return run.restored();
  }
  // In which slot of the pool the kernel says that the page is.
  std::optional<ByteCount> kernel_slot(std::uint64_t page) {
    const auto range = must(vmas.at(vm().address_of(PageIndex{page})));
    if (!range || guest::RamFileId{range->device, range->inode} != pool().file()) return {};
    return ByteCount{range->offset + (vm().address_of(PageIndex{page}).value - range->begin)};
  }
  // What the daemon knows of all pages is what the kernel says.
  void compare_with_kernel() {
    std::uint64_t mapped = 0;
    for (std::uint64_t p = 0; p < kPages.value; ++p) {
      CHECK(pool().slot_of(PageIndex{p}) == kernel_slot(p));
      mapped += kernel_slot(p) ? 1 : 0;
    }
    CHECK(pool().mapped().value == mapped);
    CHECK(contents->stats().pool_mappings == mapped);
    CHECK(contents->stats().miscounted == 0);
  }
  // Everything goes back, and the pool is empty.
  void clear() {
    for (std::uint64_t p = 0; p < kPages.value; p += 16) (void)restore(p);
    compare_with_kernel();
    CHECK(pool().mapped().value == 0);
    for (int i = 0; i < 4; ++i) contents->trim();
    std::uint64_t stored = 0;
    for (const auto& form : contents->stats().forms) stored += form.contents;
    CHECK(stored == 0);
    CHECK(contents->stats().pool_allocated.value == kPageSize);  // its head
  }
  int discard(std::uint64_t page, std::uint64_t count) {
    return rf_test_discard(ram_.get(), static_cast<off_t>(page * kPageSize),
                           static_cast<off_t>(count * kPageSize));
  }
  bool in_ram_file(std::uint64_t page) const {
    const auto offset = static_cast<off_t>(page * kPageSize);
    return ::lseek(ram_.get(), offset, SEEK_DATA) == offset;
  }
  // A run that its daemon does not end: it dies with it.
  template <typename Run>
  void abandon(std::unique_ptr<Run> run) {
    static std::vector<void*>& abandoned = *new std::vector<void*>;
    abandoned.push_back(run.release());
  }

  CorePort port;
  AllButOne proof;
  const std::atomic<bool> stop{false};
  sys::VmaQuery vmas{::getpid(), sys::BorrowedFd(-1)};
  std::unique_ptr<store::Contents> contents;
  std::unique_ptr<daemon::AttachedVm> attached;

 private:
  CustodyRig() : ram_(::memfd_create("memory-backend-memfd", MFD_CLOEXEC)) {
    AgentRam ram = make_agent_ram(ram_, kPages);
    base_ = ram.base;
    ram.files.record = must(sys::make_memfd("record", ByteCount{kPageSize}, sys::Sealed::yes));
    const int shared = ::dup(ram.files.shared.get());
    contents = must(store::Contents::create(ByteCount{64u << 20}));
    begin(ram.record, std::move(ram.files), true);
    share_with_agent(vm(), shared);
    auto made = must(contents->pool(attached->group));
    REQUIRE(rf_mapping_pool(::dup(made.read_only.get())));
    REQUIRE(pool().open(std::move(made.read_only)));
  }

  Kept keep() {
    const guest::Vm::Files& files = vm().files();
    Kept kept;
    kept.record = vm().record();
    kept.files.uffd = must(files.uffd.duplicate());
    kept.files.rams.push_back(must(files.rams.front().duplicate()));
    kept.files.words = must(files.words.duplicate());
    kept.files.shared = must(files.shared.duplicate());
    kept.files.record = must(files.record.duplicate());
    kept.store = {must(contents->files().contents.duplicate()),
                  must(contents->files().arena.duplicate()),
                  must(contents->files().groups.duplicate()), must(contents->pool_files())};
    return kept;
  }
  // Nothing of a daemon that is killed is put in order.
  void leave() {
    contents->hand_over();
    attached->faults->stop();
    attached->faults.reset();
    attached.reset();
    contents.reset();
  }
  void begin(const guest::VmRecord& record, guest::Vm::Files files, bool fresh) {
    attached = std::make_unique<daemon::AttachedVm>();
    attached->vm = must(guest::Vm::make(record, std::move(files)));
    attached->group = must(contents->group("one"));
    attached->pool = std::make_unique<fold::VmPool>(*contents, attached->group, kPages);
    if (!fresh) {
      attached->counted.store(false);
      vm().begin_uncounted();
      vm().set_mappings_known(false);
    }
    // One mapping from the begin: what is registered differs from what is not.
    if (fresh) {
      for (std::uint64_t p = 0; p < kPages.value; p += guest::kChunkPages.value)
        REQUIRE(vm().ensure_registered(PageIndex{p}).outcome == sys::Outcome::done);
    }
    (void)vm().gate().open(0, vm().gate().epoch());
    REQUIRE(fault_pool_->begin().has_value());
    attached->faults = must(fault::Server::start(fault_pool_, vm(), *contents, attached->group, 1));
  }

  std::shared_ptr<fault::Pool> fault_pool_ = Rig::fault_pool();
  sys::Fd ram_;
  char* base_ = nullptr;
  std::vector<store::PoolFile> lost_pools_;
};

// Writes a page, and waits where it is guarded.
struct Writer {
  Writer(CustodyRig& rig, std::uint64_t page, char value)
      : thread([this, at = rig.at(page), value] {
          *at = value;
          done = true;
        }) {}
  ~Writer() { thread.join(); }
  bool waits() const {
    std::this_thread::sleep_for(200ms);
    return !done;
  }
  std::atomic<bool> done{false};
  std::thread thread;
};

}  // namespace

TEST_CASE("a restart finds every page that maps the pool, and frees no slot before") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(0, 1);
  rig.share_twice(64, 33);
  *rig.at(3) = 77;  // its own copy now
  rig.compare_with_kernel();
  const auto slot = rig.kernel_slot(5);

  rig.restart();
  CHECK_FALSE(rig.vm().mappings_known());
  // Also when nothing names a content any more, its slot stays while it may be mapped.
  REQUIRE(rig.contents->finish_recovery().has_value());
  for (int i = 0; i < 4; ++i) rig.contents->trim();
  CHECK(*rig.at(5) == 6);
  std::array<Result<PoolSlot>, 1> none{PoolSlot{}};
  const std::array<ContentId, 1> one{rig.vm().table().load(PageIndex{5}).value().content()};
  rig.contents->share_run(rig.attached->group, one, none);
  CHECK(none[0].error().code == EAGAIN);

  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 64);
  CHECK(found->left == 0);
  CHECK(found->damaged + found->strange + found->unnamed == 0);
  CHECK(rig.vm().mappings_known());
  CHECK(rig.pool().slot_of(PageIndex{5}) == slot);
  rig.compare_with_kernel();
  REQUIRE(rig.contents->mappings_known(rig.attached->group).has_value());
  rig.contents->trim();
  for (unsigned i = 0; i < 32; ++i) {
    CHECK(*rig.at(i) == (i == 3 ? 77 : static_cast<char>(1 + i % 16)));
    CHECK(*rig.at(64 + i) == static_cast<char>(33 + i % 16));
  }
  rig.clear();
  CHECK(*rig.at(3) == 77);
  CHECK(*rig.at(5) == 6);
}

TEST_CASE("a look between a restart and the search does not take the pool for something else") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(0, 1);
  rig.restart();
  REQUIRE_FALSE(rig.vm().mappings_known());
  const rf_block& offered = rig.vm().record().block[0];
  const std::array ram{guest::RamBlock{{static_cast<dev_t>(offered.device), offered.inode},
                                       HostVirt{offered.address},
                                       ByteCount{offered.size},
                                       ByteCount{offered.offset}}};
  const sys::Procfs procfs;
  CHECK_FALSE(guest::look_at_ram(procfs, ::getpid(), ram).exact);
  REQUIRE(daemon::open_known_pool(*rig.attached, *rig.contents).has_value());
  REQUIRE(rig.pool().is_open());
  CHECK(guest::look_at_ram(procfs, ::getpid(), ram, rig.pool().file()).exact);
  REQUIRE(rig.recover().has_value());
  rig.finish();
  rig.clear();
}

TEST_CASE("a page that was about to map the pool is the guest's own again") {
  CustodyRig& rig = CustodyRig::get();
  rig.fill_twice(128, 1);
  for (unsigned i = 0; i < 16; ++i) (void)rig.put(144 + i);
  auto run = rig.sharing(128);
  rig.port.loses = true;  // the daemon is killed before the agent gets to the command
  REQUIRE(run->map(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  CHECK(rig.tag(130) == Tag::mapped);
  rig.abandon(std::move(run));
  rig.restart();
  {
    Writer writer(rig, 130, 99);
    // Its event was served by nobody: the command could still map the page.
    CHECK(writer.waits());
    CHECK(rig.tag(130) == Tag::mapped);
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK(found->mapped == 0);
    CHECK(found->left == 16);
    CHECK(found->strange == 0);
  }
  CHECK(*rig.at(130) == 99);
  CHECK(rig.tag(130) == Tag::none);
  rig.finish();
  rig.clear();
}

TEST_CASE("a page whose mapping came after its daemon's death stays mapped") {
  CustodyRig& rig = CustodyRig::get();
  rig.fill_twice(160, 1);
  for (unsigned i = 0; i < 16; ++i) (void)rig.put(176 + i);
  auto run = rig.sharing(160);
  rig.port.loses = true;
  REQUIRE(run->map(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  rig.abandon(std::move(run));
  rig.restart();
  rig.port.carry_out(rig.port.left);  // it had begun; the fence comes after it
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 16);
  CHECK(found->left == 0);
  rig.finish();
  rig.compare_with_kernel();
  for (unsigned i = 0; i < 16; ++i) CHECK(*rig.at(160 + i) == static_cast<char>(1 + i));
  rig.clear();
}

TEST_CASE("a page that was being put back loses no write, on either side of the agent") {
  CustodyRig& rig = CustodyRig::get();
  bool ran = false;
  SECTION("the agent never ran the command") { ran = false; }
  SECTION("the agent ran the command after the death") { ran = true; }
  rig.share_twice(192, 1);
  *rig.at(194) = 55;
  auto run = std::make_unique<fold::RestoringRun>(rig.vm(), rig.vmas, rig.proof, rig.pool(),
                                                  CustodyRig::window(192));
  rig.port.loses = true;
  REQUIRE(run->restore(rig.port, 1s) == Settled::no);
  rig.port.loses = false;
  rig.abandon(std::move(run));
  rig.restart();
  {
    Writer writer(rig, 195, 99);
    CHECK(writer.waits());  // at the guard of the run that was cut off
    if (ran) rig.port.carry_out(rig.port.left);
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK(found->mapped == (ran ? 16u : 32u));
    CHECK(found->left == (ran ? 16u : 0u));
  }
  rig.finish();
  rig.compare_with_kernel();
  for (unsigned i = 0; i < 32; ++i)
    CHECK(*rig.at(192 + i) == (i == 2 ? 55 : i == 3 ? 99 : static_cast<char>(1 + i % 16)));
  if (ran) {
    // It is registered again: a guard holds there.
    CHECK(rig.in_ram_file(195));
    CHECK(rig.vm().uffd().guard(rig.vm().range_of(CustodyRig::window(192))).outcome ==
          sys::Outcome::done);
    *rig.at(196) = 1;
  }
  rig.clear();
}

TEST_CASE("QEMU discards mapped pages while no daemon knows of them") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(256, 1);
  rig.restart();
  REQUIRE(rig.discard(258, 2) == 0);
  CHECK(*rig.at(258) == 0);
  *rig.at(259) = 7;
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 30);
  CHECK(found->left == 2);
  CHECK(*rig.at(258) == 0);
  CHECK(*rig.at(259) == 7);
  rig.finish();
  rig.compare_with_kernel();
  rig.clear();
}

TEST_CASE(
    "a page that maps the pool and whose word does not say so keeps its slot, and the VM's"
    " mappings stay unknown") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(320, 1);
  // As if a word had been damaged, and repaired since.
  std::array<char, 8> zero{};
  REQUIRE(::pwrite(rig.vm().files().words.get(), zero.data(), 8, 321 * 8) == 8);
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->unnamed == 1);
  CHECK(found->mapped == 31);
  CHECK_FALSE(rig.vm().mappings_known());
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  CHECK(*rig.at(321) == 2);
  // For the cases after this one: the page goes back as a discard of QEMU's.
  REQUIRE(rig.discard(321, 1) == 0);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
}

TEST_CASE("T2: while the pool cannot be opened its pages keep their words, and stay unknown") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(512, 1);
  *rig.at(514) = 66;
  rig.restart(CustodyRig::Pools::lost);
  for (int i = 0; i < 2; ++i) {
    const auto found = rig.recover();
    REQUIRE(found.has_value());
    CHECK_FALSE(rig.pool().is_open());
    CHECK(found->strange == 32);
    CHECK(found->left + found->unnamed == 0);
    // Or an unfold would go on, and whoever reads the RAM file would read zeros there.
    CHECK_FALSE(rig.vm().mappings_known());
    CHECK(rig.tag(515) == Tag::mapped);
  }
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  CHECK(*rig.at(514) == 66);
  CHECK(*rig.at(515) == 4);
  *rig.at(515) = 67;
  // The next daemon has it.
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->mapped == 32);
  CHECK(found->all_known());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
  CHECK(*rig.at(514) == 66);
  CHECK(*rig.at(515) == 67);
}

TEST_CASE("a damaged word that a fault repairs before it is counted may have named a mapping") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(544, 1);
  // All but one word are zero, and that one is damaged.
  std::array<std::uint64_t, 32> words{};
  words[7] = 0x0123456789abcdef;
  REQUIRE(::pwrite(rig.vm().files().words.get(), words.data(), sizeof words, 544 * 8) ==
          sizeof words);
  const auto pools = GENERATE(CustodyRig::Pools::kept, CustodyRig::Pools::lost);
  rig.restart_uncounted(pools);
  const PageIndex damaged{551};
  REQUIRE(rig.vm().table().take_idle_for_fill(damaged));
  const guest::LoadedWord word = rig.vm().table().load(damaged);
  REQUIRE_FALSE(word.has_value());
  REQUIRE(rig.vm().repair(damaged, word.error(), Tag::none, guest::Owner::filling));
  rig.vm().release(damaged);
  rig.count();
  CHECK_FALSE(rig.vm().mappings_known());
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->unnamed == 32);
  CHECK_FALSE(rig.vm().mappings_known());
  // For the cases after this one.
  REQUIRE(rig.discard(544, 32) == 0);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  CHECK(rig.vm().mappings_known());
  rig.finish();
  rig.clear();
}

TEST_CASE("a restart in the middle of the search finds the same, and an end gives all back") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(384, 1);
  rig.restart();
  REQUIRE(rig.recover().has_value());
  rig.restart();  // nothing was known to the store
  REQUIRE(rig.recover().has_value());
  rig.compare_with_kernel();
  // Again, as after an attempt that failed near its end.
  rig.vm().set_mappings_known(false);
  REQUIRE(rig.recover().has_value());
  rig.compare_with_kernel();
  rig.finish();
  rig.clear();
}

TEST_CASE("a slot with other bytes than the word names is told, and stays while it is mapped") {
  CustodyRig& rig = CustodyRig::get();
  rig.share_twice(448, 1);
  const auto files = must(rig.contents->pool_files());
  const auto place = rig.kernel_slot(450);
  REQUIRE(place.has_value());
  // The word of 450 names the content of 451, as if it had been another's.
  const guest::Word own = rig.vm().table().load(PageIndex{450}).value();
  const ContentId other = rig.vm().table().load(PageIndex{451}).value().content();
  REQUIRE(rig.vm().table().take_for_restoring(PageIndex{450}));
  REQUIRE(rig.vm().advance(PageIndex{450}, own, own.cleared(), guest::Owner::restoring));
  rig.vm().release(PageIndex{450});
  REQUIRE(rig.vm().table().take_for_mapping(PageIndex{450}));
  const guest::Word none = rig.vm().table().load(PageIndex{450}).value();
  REQUIRE(rig.vm().advance(PageIndex{450}, none, none.becomes(Tag::mapped, other, 0, 0),
                           guest::Owner::mapping));
  rig.vm().release(PageIndex{450});
  rig.restart();
  const auto found = rig.recover();
  REQUIRE(found.has_value());
  CHECK(found->damaged == 1);
  CHECK(found->mapped == 32);
  CHECK(rig.vm().inconsistency() == guest::Inconsistency::moved);
  rig.finish();
  rig.compare_with_kernel();
  for (int i = 0; i < 4; ++i) rig.contents->trim();
  CHECK(*rig.at(450) == 3);  // the mapping is the truth
  rig.restart();             // without the finding, so that it can be put back
  REQUIRE(rig.recover().has_value());
  rig.finish();
  rig.clear();
  CHECK(*rig.at(450) == 3);
}
