// SPDX-License-Identifier: GPL-2.0-or-later
// The agents' connections: hears who came in by the door, attaches VMs, relays holds and requests
// to unfold. Treats every agent as hostile: bounded
// connections a process and a user, deadlines, a child to receive what it sends, and nothing waits
// for an agent or its process: whatever can be held up is done apart (daemon/agents/look.hpp).
// Threads: one thread of its own; begin() from one; send_* and forget() from any.
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

// What the agents' thread asks of the rest of the daemon.
class AgentEvents {
 public:
  virtual ~AgentEvents() = default;
  // Is this VM to be attached now? False: it may be attached by the operator later.
  virtual bool wanted(const WaitingAgent& agent) = 0;
  // The agent of an attached VM answers, or has something new to be looked at.
  virtual void agent_ready(const VmHandle& vm) = 0;
  virtual void look_again(const VmHandle& vm) = 0;
  // A consumer of RAM waits until nothing is folded: answered by Agents::send_unfolded.
  virtual void unfold_wanted(const VmHandle& vm, std::uint32_t token, std::uint32_t hazard) = 0;
  virtual void attached(const VmHandle& vm) = 0;
  // Lets go of a VM of which nothing is folded; false: something is, or that is not known yet.
  virtual bool forget_unused(const VmHandle& vm) = 0;
};

class Agents final : public AgentAnswers {
 public:
  // Of both, one user has no more than its share (base/owner_share.hpp).
  static constexpr std::size_t kConnectionsMax = 2048;
  static constexpr std::size_t kVmsMax = 2048;
  static constexpr std::size_t kOfProcessMax = 2;
  static constexpr std::uint64_t kHandshakeNs = 5'000'000'000;

  // Agents may connect when this returns; they are heard from begin() on.
  static Result<std::unique_ptr<Agents>> make(const std::string& socket, const std::string& group,
                                              std::uint32_t generation, sys::Fd userfault_device,
                                              const sys::Procfs& procfs, VmSet& vms,
                                              Attacher& attacher, AgentEvents& events);
  ~Agents() override;
  Agents(const Agents&) = delete;
  Agents& operator=(const Agents&) = delete;

  // Starts the thread when it does not run.
  Status begin();
  void stop() noexcept;
  void send_unfolded(const AttachedVm& vm, std::uint32_t token, bool ok) override;
  void send_unfolding(const AttachedVm& vm, std::uint32_t token, std::uint64_t done,
                      std::uint64_t all) override;
  void send_detached(const AttachedVm& vm, Afterwards afterwards) override;
  void call_back(pid_t pid) override;
  // The next VM meets what wanted() says by then.
  void finish_offers() override EXCLUDES(offers_mutex_) { const MutexLock lock(offers_mutex_); }
  void invite_all() override;
  std::shared_ptr<guest::AgentPort> port(const AttachedVm& vm) override;
  bool invite(pid_t pid) override EXCLUDES(mutex_);
  // Agents that are told to wait, and those that are refused whenever they ask.
  std::vector<WaitingAgent> waiting() EXCLUDES(mutex_);

 private:
  enum class Stage : std::uint8_t { hello, waiting, offer, ready, attached };
  // What is not guarded belongs to the agents' thread. `peer` never changes, and `identity` changes
  // under mutex_: others read it there.
  struct Connection {
    sys::Fd socket;
    AgentPeer peer;
    VmIdentity identity;
    Stage stage GUARDED_BY(&Agents::mutex_) = Stage::hello;
    std::uint64_t deadline_ns GUARDED_BY(&Agents::mutex_) = 0;
    std::uint32_t hazards = 0;
    std::uint64_t capabilities = 0;
    // By a daemon that left this one nothing of it.
    bool folded GUARDED_BY(&Agents::mutex_) = false;
    // Its process is being looked at; meanwhile nothing is received.
    std::shared_ptr<Look> look;
    rf_hello hello{};
    bool heard = true;  // in the epoll set
    // As soon as no run of its VM is under way.
    bool closing GUARDED_BY(&Agents::mutex_) = false;
    // Made, and the fence sent, when the agent is ready.
    std::shared_ptr<CommandChannel> commands GUARDED_BY(&Agents::mutex_);
    VmHandle vm GUARDED_BY(&Agents::mutex_);
    std::shared_ptr<const Former> former
        GUARDED_BY(&Agents::mutex_);  // of a VM that is being attached anew
  };

  Agents(Door::Socket listening, sys::Fd epoll, std::shared_ptr<LookDesk> desk,
         std::uint32_t generation, sys::Fd device, const sys::Procfs& procfs, VmSet& vms,
         Attacher& attacher, AgentEvents& events);
  void run();
  void enter(Door::Visitor visitor) EXCLUDES(mutex_);
  bool has_place(const AgentPeer& peer) REQUIRES(mutex_);
  bool has_place_for_vm(uid_t account);
  bool receive(Connection& c);  // false: close it
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
  std::shared_ptr<LookDesk> desk_;  // its eventfd wakes the thread for whatever reason
  const std::uint32_t generation_;
  sys::Fd device_;
  const sys::Procfs& procfs_;
  VmSet& vms_;
  Attacher& attacher_;
  AgentEvents& events_;
  sys::SubordinateIds ids_;         // the agents' thread's
  sys::Receptionist receptionist_;  // the thread's alone, as are the complaints
  Complaints complaints_;
  Door door_;  // after what it uses; the thread's too
  Refusals refusals_;
  std::uint64_t tended_ns_ = 0;
  bool any_closing_ = false;
  std::atomic<bool> stopping_{false};
  // From wanted() until the VM is in `vms_`.
  Mutex offers_mutex_ ACQUIRED_BEFORE(mutex_, &FactState::mutex){"Agents::offers"};
  mutable Mutex mutex_ ACQUIRED_BEFORE(&FactState::mutex){"Agents"};
  std::list<Connection> connections_ GUARDED_BY(mutex_);
  sys::Thread thread_;
};

}  // namespace ramfold::daemon
