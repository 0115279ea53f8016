// SPDX-License-Identifier: GPL-2.0-or-later
// The connections with agents: reads their messages, attaches VMs, passes on requests for a look or
// to unfold. Treats every agent as hostile: bounds connections per process and per user, sets
// deadlines, receives messages with a child process, and never waits for an agent or its process:
// calls that it can hold up run on other threads (daemon/agents/look.hpp).
// Threads: one thread of its own; begin() from one; the public functions, send_* too, from any.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>

#include "base/thread_annotations.hpp"
#include "daemon/agents/attach.hpp"
#include "daemon/agents/command_channel.hpp"
#include "daemon/agents/complaints.hpp"
#include "daemon/agents/door.hpp"
#include "daemon/agents/look.hpp"
#include "daemon/agents/refusals.hpp"
#include "daemon/agents/waiting_agent.hpp"
#include "daemon/fleet/agent_answers.hpp"
#include "daemon/fleet/vm_set.hpp"
#include "guest/agent_messages.hpp"
#include "sys/receptionist.hpp"
#include "sys/subordinate_ids.hpp"
#include "sys/thread.hpp"

namespace ramfold::daemon {

// Questions and messages of the agents' thread to the rest of the daemon.
class AgentEvents {
 public:
  virtual ~AgentEvents() = default;
  // True: attach this VM now. False: the operator may attach it later.
  virtual bool wanted(const WaitingAgent& agent) = 0;
  // The agent of an attached VM is ready; or it asks for a look at changed facts.
  virtual void agent_ready(const VmHandle& vm) = 0;
  // No command of an earlier daemon or connection runs any more.
  virtual void fenced(const VmHandle& vm) = 0;
  virtual void look_again(const VmHandle& vm) = 0;
  // A consumer of RAM waits until nothing is folded. Agents::send_unfolded() answers it.
  virtual void unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) = 0;
  virtual void attached(const VmHandle& vm) = 0;
  // Removes a VM that has nothing folded. False: it has, or that is not known yet.
  virtual bool forget_unused(const VmHandle& vm) = 0;
};

class Agents final : public AgentAnswers {
 public:
  // Of each of the first two, one user gets at most its share (base/owner_share.hpp). The share of
  // connections is larger than that of VMs: an agent whose VM is one too many must be heard, to be
  // told why it is refused.
  static constexpr std::size_t kVmsMax = 2048;
  static constexpr std::size_t kConnectionsMax = kVmsMax + kVmsMax / 4;
  static constexpr std::size_t kOfProcessMax = 2;
  static constexpr std::uint64_t kHandshakeNs = 5'000'000'000;

  // Agents may connect when this returns; their messages are read after begin().
  static Result<std::unique_ptr<Agents>> make(const std::string& socket, const std::string& group,
                                              std::uint32_t generation, sys::Fd userfault_device,
                                              const sys::Procfs& procfs, VmSet& vms,
                                              Attacher& attacher, AgentEvents& events);
  ~Agents() override;
  Agents(const Agents&) = delete;
  Agents& operator=(const Agents&) = delete;

  // Starts the thread unless it runs already.
  Status begin();
  void stop() noexcept;
  void send_unfolded(const AttachedVm& vm, std::uint32_t token, bool ok) override;
  void send_unfolding(const AttachedVm& vm, std::uint32_t token, std::uint64_t done,
                      std::uint64_t all) override;
  void send_detached(const AttachedVm& vm, Afterwards afterwards) override;
  void call_back(pid_t pid) override;
  // A VM whose attaching begins after this gets the answer that wanted() gives then.
  void finish_offers() override EXCLUDES(offers_mutex_) { const MutexLock lock(offers_mutex_); }
  void invite_all() override;
  std::shared_ptr<guest::AgentPort> port(const AttachedVm& vm) override;
  bool send_pool(AttachedVm& vm) override;
  bool invite(pid_t pid) override EXCLUDES(mutex_);
  // Agents that wait, and agents that were refused a short time ago.
  std::vector<WaitingAgent> waiting() EXCLUDES(mutex_);

 private:
  enum class Stage : std::uint8_t { hello, waiting, offer, ready, attached };
  // Members without GUARDED_BY belong to the agents' thread. Two of them are read by other threads
  // under mutex_: `peer`, which never changes, and `identity`, which changes only under mutex_.
  struct Connection {
    sys::Fd socket;
    AgentPeer peer;
    VmIdentity identity;
    Stage stage GUARDED_BY(&Agents::mutex_) = Stage::hello;
    std::uint64_t deadline_ns GUARDED_BY(&Agents::mutex_) = 0;
    std::uint32_t hazards = 0;
    std::uint64_t capabilities = 0;
    // Its pages were folded by an earlier daemon, which left nothing of the VM to this one.
    bool folded GUARDED_BY(&Agents::mutex_) = false;
    // The look at its process that runs now; meanwhile nothing is received.
    std::shared_ptr<Look> look;
    rf_hello hello{};
    bool heard = true;  // in the epoll set
    // Its offer stays in the queue, because too many descriptors of its user are not closed yet.
    bool put_off = false;
    // Is closed as soon as its VM has no run under way.
    bool closing GUARDED_BY(&Agents::mutex_) = false;
    // Made when the agent is ready and the fence was sent; else null.
    std::shared_ptr<CommandChannel> commands GUARDED_BY(&Agents::mutex_);
    VmHandle vm GUARDED_BY(&Agents::mutex_);
    std::shared_ptr<const Former> former
        GUARDED_BY(&Agents::mutex_);  // set while the VM is attached anew
  };

  Agents(Door::Socket listening, sys::Fd epoll, std::shared_ptr<LookDesk> desk,
         std::uint32_t generation, sys::Fd device, const sys::Procfs& procfs, VmSet& vms,
         Attacher& attacher, AgentEvents& events);
  void run();
  void enter(Door::Visitor visitor) EXCLUDES(mutex_);
  bool has_place(const AgentPeer& peer) REQUIRES(mutex_);
  struct Beside {  // the VMs that are attached, or have left and are still there; `ram`: attached
    std::size_t of_owner = 0;
    std::size_t of_others = 0;
    DeclaredRam ram;
  };
  Beside beside(uid_t account);
  bool receive(Connection& c);  // false: close it
  bool on_not_received(Connection& c, Stage stage, bool closing_much);
  void hear_put_off() EXCLUDES(mutex_);
  bool handle(Connection& c, sys::Message& message, std::span<const std::byte> bytes);
  void hear(Connection& c, bool heard);
  void start_look(Connection& c, std::shared_ptr<Look> look) REQUIRES(mutex_);
  void take_looks();
  bool on_hello(Connection& c, const guest::Hello& message);
  bool after_hello(Connection& c, const Look& look);
  bool on_offer(Connection& c, const rf_offer& offer, sys::Message& message);
  bool after_offer(Connection& c, Look& look);
  void on_ready(Connection& c, const VmHandle& vm);
  void begin_commands(Connection& c) REQUIRES(mutex_);
  void end_commands(Connection& c) noexcept REQUIRES(mutex_);
  bool closes_another_of(const Connection& c) const EXCLUDES(mutex_);
  bool on_unfold(Connection& c, const VmHandle& vm, const rf_unfold& message);
  void close(Connection& c) EXCLUDES(mutex_);
  void close_late();
  void close_quiet();
  bool invite_now(Connection& c) REQUIRES(mutex_);
  static WaitingAgent as_waiting(const AgentPeer& peer, const VmIdentity& identity);
  bool told_to_wait(Connection& c) REQUIRES(mutex_);
  bool welcome(Connection& c, std::uint16_t action, const std::uint8_t* instance, int fd);
  void refuse(Connection& c, std::string_view why);
  template <typename Message>
  bool send(const Connection& c, Message& message, std::uint16_t type,
            std::span<const int> fds = {}, std::uint16_t flags = 0) {
    message.h = {RF_MAGIC, type, flags, sizeof message, generation_};
    return send_bytes(c, std::as_bytes(std::span(&message, 1)), fds);
  }
  bool send_bytes(const Connection& c, std::span<const std::byte> bytes, std::span<const int> fds);
  // f() runs under mutex_.
  void send_to(const AttachedVm& vm, const std::function<void(Connection&)>& f) EXCLUDES(mutex_);

  sys::Fd epoll_;
  std::shared_ptr<LookDesk> desk_;  // its eventfd wakes this thread, also for stop()
  const std::uint32_t generation_;
  sys::Fd device_;
  const sys::Procfs& procfs_;
  VmSet& vms_;
  Attacher& attacher_;
  AgentEvents& events_;
  sys::SubordinateIds ids_;         // only for the agents' thread
  sys::Receptionist receptionist_;  // only for the agents' thread, as complaints_
  Complaints complaints_;
  Door door_;  // declared after the members that it uses; agents' thread
  Refusals refusals_;
  std::uint64_t tended_ns_ = 0;
  bool any_closing_ = false;
  bool any_put_off_ = false;
  std::atomic<bool> stopping_{false};
  // Held from wanted() until the VM is in `vms_`.
  Mutex offers_mutex_ ACQUIRED_BEFORE(mutex_, &FactState::mutex){"Agents::offers"};
  mutable Mutex mutex_ ACQUIRED_BEFORE(&FactState::mutex){"Agents"};
  std::list<Connection> connections_ GUARDED_BY(mutex_);
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
