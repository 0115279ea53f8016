// SPDX-License-Identifier: GPL-2.0-or-later
// The daemon's workers map the pool over pages that are read, and put back those that are written:
// scan workers, mapping worker and fault threads with a real store, a real pool and the agent's
// core. Guest threads read and write all the time, and compare every byte.
#include "daemon/work/mapping_worker.hpp"

#include <sys/mman.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <thread>
#include <vector>

#include "daemon/bring_back/unfold.hpp"
#include "daemon/work/scan_workers.hpp"
#include "kernel/mapping_rig.hpp"
#include "kernel/pin_test.hpp"
#include "kernel/silent_agents.hpp"
#include "store/contents.hpp"
#include "store/stats.hpp"

using namespace ramfold;
using namespace ramfold::daemon;
using namespace ramfold::test;
using guest::Tag;

namespace {

constexpr std::uint64_t kRamPages = MappingRig::kPages.value;

const sys::PrivatePins& private_pins() {
  static const auto loaded = sys::PrivatePins::load(sys::Procfs());
  if (!loaded) {
    std::printf("%s\n", loaded.error().text().c_str());
    std::exit(77);
  }
  return *loaded;
}

// The agent's connection.
class Agents final : public test::SilentAgents {
 public:
  std::shared_ptr<guest::AgentPort> port(const AttachedVm&) override {
    const std::lock_guard lock(mutex_);
    return port_;
  }
  bool send_pool(AttachedVm&) override { return true; }
  // Commands are lost from now on; the last one may still run.
  void lose() {
    const std::lock_guard lock(mutex_);
    port_->loses = true;
  }
  std::shared_ptr<CorePort> now() {
    const std::lock_guard lock(mutex_);
    return port_;
  }
  void connect_anew() {
    const std::lock_guard lock(mutex_);
    port_->closed = true;
    port_ = std::make_shared<CorePort>();
  }

 private:
  std::mutex mutex_;
  std::shared_ptr<CorePort> port_ = std::make_shared<CorePort>();
};

// A VM of this process, and all workers. There is one: the agent's RAM is fixed.
struct Machine {
  MappingRig rig{ServedBy::test};
  std::unique_ptr<store::Contents> contents;
  VmSet vms;
  HostState host;
  policy::Config config;
  Agents agents;
  std::shared_ptr<fault::Pool> fault_pool;
  VmHandle vm = std::make_shared<AttachedVm>();
  std::unique_ptr<ScanWorkers> scan;
  std::unique_ptr<MappingWorker> mapping;
  std::uint64_t base = 0;

  static Machine& get() {
    static Machine& machine = *new Machine;  // its threads use it to the end
    return machine;
  }

  Machine() {
    auto made = store::Contents::create(ByteCount{64u << 20});
    REQUIRE(made);
    contents = std::move(*made);
    std::memset(const_cast<char*>(rig.at(0)), 0, bytes(MappingRig::kPages).value);
    base = rig.base();
    vm->vm = std::move(rig.vm);
    vm->group = std::move(*contents->group("a"));
    auto files = contents->pool(vm->group);
    REQUIRE(files);
    vm->pool = std::make_unique<fold::VmPool>(*contents, vm->group, MappingRig::kPages);
    REQUIRE(vm->pool->open(std::move(*files->read_only.duplicate())));
    REQUIRE(rf_mapping_pool(files->read_only.release()));
    vm->cursor.next = scan::chunk_count(*vm->vm);
    vm->pool_sent = true;
    vm->map_obstacle = MapObstacle::nothing;
    vm->kept = true;
    vm->agent_ready = true;
    allow(true);
    auto pool = fault::Pool::make();
    REQUIRE(pool);
    fault_pool = std::move(*pool);
    REQUIRE(fault_pool->begin());
    auto server = fault::Server::start(fault_pool, *vm->vm, *contents, vm->group, 1);
    REQUIRE(server);
    vm->faults = std::move(*server);
    HostVerdict verdict;
    verdict.may_observe = verdict.may_fold = true;
    host.publish(std::move(verdict));
    config.fold.pass_seconds = 0.03;
    config.fold.backoff = false;
    config.scan.cpu = 1;
    scan = std::make_unique<ScanWorkers>(vms, *contents, host, config);
    mapping = std::make_unique<MappingWorker>(vms, *contents, host, config);
    scan->fold_with(pin_test());
    mapping->map_with(pin_test(), private_pins());
    mapping->ask_through(agents);
    scan->set(policy::work_targets(config));
    mapping->set(policy::work_targets(config));
    vms.add(vm);
    scan->start();
    REQUIRE(mapping->begin());
  }
  void allow(bool map) {
    policy::VmTargets targets;
    targets.stall_budget = 100;
    targets.map = map;
    targets.when = policy::FoldWhen::eager;
    targets.passes = 1;
    vm->targets.store(targets);
    (void)vm->vm->gate().open(0, vm->vm->gate().epoch());
  }
  volatile std::uint64_t* words(std::uint64_t page) const {
    return reinterpret_cast<volatile std::uint64_t*>(base + page * kPageSize);
  }
  Tag tag(std::uint64_t page) const { return vm->vm->table().load(PageIndex{page}).value().tag(); }
  bool maps_pool(std::uint64_t page) const {
    const auto range = rig.vmas.at(HostVirt{base + page * kPageSize});
    REQUIRE((range && *range));
    return guest::RamFileId{(*range)->device, (*range)->inode} == vm->pool->file();
  }
  std::uint64_t events() const {
    const guest::VmCounters& c = vm->vm->counters();
    return c.faults_zero.get() + c.faults_content.get() + c.faults_write_guarded.get() +
           c.faults_late.get() + c.faults_busy.get();
  }
  Status unfold() {
    const auto unfolding = std::make_shared<Unfolding>(vm);
    REQUIRE(unfolding->first());
    const std::atomic<bool> stop{false};
    return daemon::unfold(*vm, [](std::uint64_t) {}, stop);
  }
};

// Bytes of a page for a seed: each word differs.
std::uint64_t word_of(std::uint64_t seed, unsigned i) {
  return (seed + 1) * 0x9e3779b97f4a7c15u + i * 0x100000001b3u;
}
constexpr unsigned kWords = kPageSize / 8;

void fill(volatile std::uint64_t* page, std::uint64_t seed) {
  for (unsigned i = 0; i < kWords; ++i) page[i] = word_of(seed, i);
}
bool holds(const volatile std::uint64_t* page, std::uint64_t seed) {
  for (unsigned i = 0; i < kWords; ++i) {
    if (page[i] != word_of(seed, i)) return false;
  }
  return true;
}

// A thread of the guest with pages of its own: page `first + i` holds the bytes of seed first_seed
// + i unless this thread writes others. It reads all of them all the time and compares every byte.
class GuestThread {
 public:
  GuestThread(Machine& machine, std::uint64_t first, std::uint64_t count, std::uint64_t seed,
              unsigned writes_permille)
      : machine_(machine), first_(first), writes_permille_(writes_permille) {
    for (std::uint64_t i = 0; i < count; ++i) {
      seeds_.push_back(seed + i);
      fill(machine.words(first + i), seed + i);
    }
    seed_ = seed;
    thread_ = std::thread([this] { run(); });
  }
  ~GuestThread() { end(); }
  void end() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  std::uint64_t wrong() const { return wrong_; }
  std::uint64_t reads() const { return reads_; }
  void write(unsigned permille) { writes_permille_ = permille; }

 private:
  void run() {
    std::uint64_t random = first_ * 7919 + 1;
    while (!stop_) {
      for (std::uint64_t i = 0; i < seeds_.size() && !stop_; ++i) {
        volatile std::uint64_t* const page = machine_.words(first_ + i);
        if (!holds(page, seeds_[i])) ++wrong_;
        ++reads_;
        random = random * 6364136223846793005u + 1442695040888963407u;
        if ((random >> 33) % 1000 >= writes_permille_) continue;
        // Other bytes, or again those that another thread's page has.
        seeds_[i] = (random >> 20) % 4 == 0 ? 1'000'000 + (random >> 40) : seed_ + i;
        fill(page, seeds_[i]);
        if (!holds(page, seeds_[i])) ++wrong_;
      }
      ::usleep(200);
    }
  }

  Machine& machine_;
  std::uint64_t first_;
  std::uint64_t seed_ = 0;
  std::vector<std::uint64_t> seeds_;
  std::atomic<unsigned> writes_permille_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> wrong_{0};
  std::atomic<std::uint64_t> reads_{0};
  std::thread thread_;
};

std::uint64_t mapped(Machine& machine) { return machine.vm->mapped().value; }

}  // namespace

TEST_CASE("duplicates that are read all the time map the pool, and raise no event any more") {
  Machine& machine = Machine::get();
  GuestThread one(machine, 0, 64, 100, 0);
  GuestThread two(machine, 1024, 64, 100, 0);
  REQUIRE(soon_quiet([&] { return mapped(machine) == 128; }));
  CHECK(machine.maps_pool(0));
  CHECK(machine.tag(1024) == Tag::mapped);
  CHECK(machine.contents->stats().pool_allocated.value <= 65 * kPageSize + kPageSize);
  const std::uint64_t events = machine.events();
  const std::uint64_t reads = one.reads();
  CHECK(soon([&] { return one.reads() > reads + 10'000; }));
  CHECK(machine.events() == events);
  CHECK(mapped(machine) == 128);
  CHECK(one.wrong() + two.wrong() == 0);

  // They are written, and go back.
  const std::uint64_t restores = machine.vm->vm->counters().restores.get();
  one.write(1000);
  CHECK(soon_quiet([&] { return machine.vm->vm->counters().restores.get() > restores; }));
  one.write(0);
  one.end();
  two.end();
  CHECK(one.wrong() + two.wrong() == 0);
  REQUIRE(machine.unfold());
  machine.allow(true);
}

TEST_CASE("readers and writers at full speed lose nothing while pages are mapped and put back") {
  Machine& machine = Machine::get();
  guest::VmCounters& counters = machine.vm->vm->counters();
  const std::uint64_t maps = counters.maps.get();
  const std::uint64_t restores = counters.restores.get();
  std::vector<std::unique_ptr<GuestThread>> threads;
  for (unsigned i = 0; i < 4; ++i)
    threads.push_back(std::make_unique<GuestThread>(machine, 1024 * i + 512, 48, 300, 2));
  CHECK(soon_quiet([&] {
    return counters.maps.get() > maps + 1000 && counters.restores.get() > restores + 500;
  }));
  std::uint64_t wrong = 0;
  for (auto& thread : threads) wrong += thread->wrong();
  CHECK(wrong == 0);
  WARN(counters.maps.get() - maps << " mapped, " << counters.restores.get() - restores
                                  << " put back");

  // All of it comes back while they go on.
  REQUIRE(machine.unfold());
  CHECK(mapped(machine) == 0);
  for (std::uint64_t p = 0; p < kRamPages; ++p) REQUIRE(machine.tag(p) != Tag::mapped);
  for (auto& thread : threads) {
    thread->end();
    wrong += thread->wrong();
  }
  CHECK(wrong == 0);
  CHECK(machine.contents->stats().miscounted == 0);
  machine.allow(true);
}

TEST_CASE("switched off while the VM runs, every page goes back") {
  Machine& machine = Machine::get();
  GuestThread one(machine, 0, 64, 700, 1);
  GuestThread two(machine, 2048, 64, 700, 1);
  REQUIRE(soon_quiet([&] { return mapped(machine) >= 40; }));
  machine.allow(false);
  CHECK(soon([&] { return mapped(machine) == 0; }));
  CHECK_FALSE(machine.maps_pool(0));
  one.end();
  two.end();
  CHECK(one.wrong() + two.wrong() == 0);
  REQUIRE(machine.unfold());
  machine.allow(true);
}

TEST_CASE("an agent that goes away in the middle keeps its pages until the next one is there") {
  Machine& machine = Machine::get();
  GuestThread one(machine, 0, 64, 900, 1);
  GuestThread two(machine, 3072, 64, 900, 1);
  REQUIRE(soon_quiet([&] { return mapped(machine) >= 32; }));
  machine.agents.lose();
  REQUIRE(soon_quiet([&] { return machine.vm->mapping.unsettled.load(); }));
  // Nothing is brought back while nobody can say what is mapped.
  const Status refused = machine.unfold();
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == EAGAIN);
  machine.allow(true);
  // The last command runs late, and then the connection ends.
  const auto port = machine.agents.now();
  port->carry_out(port->left);
  machine.agents.connect_anew();
  CHECK(soon_quiet([&] { return !machine.vm->mapping.unsettled.load(); }));
  CHECK(soon_quiet([&] { return mapped(machine) >= 40; }));
  one.end();
  two.end();
  CHECK(one.wrong() + two.wrong() == 0);
  REQUIRE(machine.unfold());
  CHECK(mapped(machine) == 0);
  CHECK(machine.contents->stats().pool_mappings == 0);
  CHECK(machine.contents->stats().miscounted == 0);
}
