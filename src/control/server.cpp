// SPDX-License-Identifier: GPL-2.0-or-later
#include "control/server.hpp"

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <exception>
#include <set>
#include <utility>
#include <vector>

#include "base/printable.hpp"
#include "control/listener.hpp"
#include "control/names.hpp"
#include "control/protocol.hpp"
#include "control/session.hpp"
#include "sys/thread.hpp"

namespace ramfold::control {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using SessionPtr = std::shared_ptr<Session>;

// Enough for operators and their monitoring; each may hold a file descriptor and one answer.
constexpr std::size_t kClientsMax = 64;
// Operations that may run at once; one more is told that the daemon is busy.
constexpr unsigned kOperationsMax = 4;
// The pause after accept(2) has failed: without descriptors left it fails again at once.
constexpr std::chrono::milliseconds kAcceptRetry{100};

// Threads that carry out what is posted to context().
class Workers {
 public:
  ~Workers() { end(); }
  Status begin(const char* name, unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) {
      auto thread = sys::Thread::start(name, [this] { io_.run(); });
      if (!thread) return std::unexpected(thread.error());
      threads_.push_back(std::move(*thread));
    }
    return {};
  }
  // Waits until all that was posted is done.
  void end() {
    work_.reset();
    for (sys::Thread& thread : threads_) thread.join();
  }
  asio::io_context& context() { return io_; }

 private:
  asio::io_context io_;
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  std::vector<sys::Thread> threads_;
};

std::string_view verb_of(Operation operation) {
  switch (operation) {
    case Operation::snapshot: return "snapshot";
    case Operation::show: return "show";
    case Operation::attach: return "attach";
    case Operation::detach: return "detach";
    case Operation::off: return "off";
    case Operation::pause: return "pause";
    case Operation::resume: return "resume";
    case Operation::policy_get: return "policy get";
    case Operation::policy_set: return "policy set";
  }
  return "?";
}

// It changes nothing, and is answered soon.
bool is_look(Operation operation) {
  return operation == Operation::snapshot || operation == Operation::show ||
         operation == Operation::policy_get;
}

// What the log says of a request.
std::string words_of(const Request& request) {
  std::string text(verb_of(request.operation));
  if (request.vm) text += " " + printable(request.vm->text);
  for (const std::string& assignment : request.assignments) text += " " + printable(assignment);
  return text;
}

}  // namespace

class Server::Impl {
 public:
  Impl(ServerOptions options, Service& service, Listener listener)
      : options_(std::move(options)),
        service_(service),
        group_(std::move(listener.group)),
        acceptor_(io_, asio::local::stream_protocol(), listener.fd.release()),
        retry_(io_) {
    struct stat entry{};
    if (::stat(options_.socket_path.c_str(), &entry) == 0) inode_ = entry.st_ino;
    accept();
  }

  // REQUIRES: called once. Errors: there is no thread to be had.
  Status begin() {
    if (Status begun = snapshots_.begin("rf-snapshots", 1); !begun) return begun;
    if (Status begun = operations_.begin("rf-operations", kOperationsMax); !begun) return begun;
    auto thread = sys::Thread::start("rf-control", [this] { io_.run(); });
    if (!thread) return std::unexpected(thread.error());
    thread_ = std::move(*thread);
    return {};
  }

  ~Impl() {
    asio::post(io_, [this] {
      error_code ignored;
      acceptor_.close(ignored);
      retry_.cancel();
      const auto open = sessions_;
      for (const SessionPtr& session : open) session->close();
      work_.reset();
      io_.stop();
    });
    thread_.join();
    snapshots_.end();
    operations_.end();
    // A successor may have bound the path already; then the inode differs.
    struct stat entry{};
    if (::stat(options_.socket_path.c_str(), &entry) == 0 && entry.st_ino == inode_) {
      ::unlink(options_.socket_path.c_str());
    }
  }

 private:
  void accept() {
    acceptor_.async_accept([this](const error_code& error, Session::Socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error) {
        cannot_accept_said_ = false;
        welcome(std::move(socket));
        return accept();
      }
      if (!std::exchange(cannot_accept_said_, true)) {
        options_.log(fmt::format("accept: {}: trying again", error.message()));
      }
      retry_.expires_after(kAcceptRetry);
      retry_.async_wait([this](const error_code& cancelled) {
        if (!cancelled) accept();
      });
    });
  }

  void welcome(Session::Socket socket) {
    const auto caller = admit(sys::BorrowedFd(socket.native_handle()), group_);
    if (!caller) {
      options_.log(caller.error().text());
      return;  // the socket closes
    }
    if (sessions_.size() >= kClientsMax) {
      const std::string line =
          encode_reply(0, OperationError{Failure::busy,
                                         fmt::format("{} clients are connected", kClientsMax),
                                         "try again, or end some of them",
                                         {}});
      error_code ignored;
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(line), ignored);
      return;
    }
    const auto session = std::make_shared<Session>(
        std::move(socket), *caller, SessionLimits{options_.client_idle, options_.client_write},
        [this](const SessionPtr& from, const std::string& line) { on_line(from, line); },
        [this](const SessionPtr& gone) { sessions_.erase(gone); });
    sessions_.insert(session);
    session->start();
  }

  void on_line(const SessionPtr& session, const std::string& line) {
    ParsedRequest parsed = parse_request(line);
    if (!parsed.request) {
      const auto then =
          line.size() > kRequestBytesMax ? Session::Then::close : Session::Then::read_on;
      return session->answer(encode_reply(parsed.id, parsed.request.error()), then);
    }
    const Request& request = *parsed.request;
    if (is_look(request.operation)) {
      asio::post(snapshots_.context(), [this, session, request] {
        answer(session, guarded(request, [&] { return look(request); }));
      });
      return;
    }
    if (operations_running_.load() >= kOperationsMax) {
      return session->answer(encode_reply(
          request.id, OperationError{Failure::busy,
                                     fmt::format("{} operations are under way", kOperationsMax),
                                     "wait for one to end: `ramfold status --watch`",
                                     {}}));
    }
    operations_running_.fetch_add(1);
    asio::post(operations_.context(), [this, session, request] {
      std::string reply = guarded(request, [&] { return operate(session, request); });
      operations_running_.fetch_sub(1);
      answer(session, std::move(reply));
    });
  }

  // --- on the worker threads: a call into the service, and the last line of its answer ---

  template <typename Call>
  std::string guarded(const Request& request, Call call) {
    try {
      return call();
    } catch (const std::exception& error) {
      return encode_reply(
          request.id, OperationError{Failure::failed, error.what(), "see the daemon's log", {}});
    }
  }

  std::string look(const Request& request) {
    if (request.operation == Operation::snapshot) {
      return encode_reply(request.id, service_.snapshot());
    }
    if (request.operation == Operation::policy_get) {
      const auto policy = service_.policy(request.vm);
      return policy ? encode_reply(request.id, *policy) : encode_reply(request.id, policy.error());
    }
    const auto vm = service_.show(*request.vm);
    return vm ? encode_reply(request.id, *vm) : encode_reply(request.id, vm.error());
  }

  std::string operate(const SessionPtr& session, const Request& request) {
    const std::string what = fmt::format("{} by uid {} (pid {})", words_of(request),
                                         session->caller().uid, session->caller().pid);
    const auto failure = run(session, request);
    if (!failure.has_value()) {
      options_.log(fmt::format("{}: {}: {}", what, name_of(failure.error().failure),
                               printable(failure.error().text)));
      return encode_reply(request.id, failure.error());
    }
    if (!request.plan_only) options_.log(what + ": done");
    return *failure;
  }

  // The last line of the answer, or why there is none.
  Answer<std::string> run(const SessionPtr& session, const Request& request) {
    const auto done = [&](const Answer<void>& answer) -> Answer<std::string> {
      if (!answer) return std::unexpected(answer.error());
      return encode_done(request.id);
    };
    switch (request.operation) {
      case Operation::attach: {
        const auto vm = service_.attach(
            *request.vm, request.incoming_finished ? Incoming::finished : Incoming::not_known);
        if (!vm) return std::unexpected(vm.error());
        return encode_reply(request.id, *vm);
      }
      case Operation::pause: return done(service_.pause(request.vm));
      case Operation::resume: return done(service_.resume(request.vm));
      case Operation::policy_set: {
        const auto policy =
            service_.set_policy(request.vm, request.assignments, sink_of(session, request.id));
        if (!policy) return std::unexpected(policy.error());
        return encode_reply(request.id, *policy);
      }
      default: return unfold(session, request);
    }
  }

  ProgressSink sink_of(const SessionPtr& session, std::uint64_t id) {
    return [this, session, id](const UnfoldProgress& progress) {
      asio::post(io_, [session, line = encode_reply(id, progress)]() mutable {
        session->progress(std::move(line));
      });
    };
  }

  Answer<std::string> unfold(const SessionPtr& session, const Request& request) {
    const bool one = request.operation == Operation::detach;
    const auto plan = one ? service_.plan_detach(*request.vm) : service_.plan_off();
    if (!plan) return std::unexpected(plan.error());
    asio::post(io_, [session, line = encode_reply(request.id, *plan)]() mutable {
      session->part(std::move(line));
    });
    if (plan->missing() > ByteCount{0}) {
      return refuse(
          Failure::refused,
          fmt::format("unfolding needs {} bytes and {} are available: {} are missing",
                      plan->needed.value, plan->available.value, plan->missing().value),
          "free that much memory (stop or migrate a VM, add swap), lower host.reserve, or "
          "detach single VMs",
          plan->missing());
    }
    if (request.plan_only) return encode_done(request.id);
    const ProgressSink sink = sink_of(session, request.id);
    const auto end = one ? service_.detach(*request.vm, sink) : service_.off(sink);
    if (!end) return std::unexpected(end.error());
    return encode_done(request.id);
  }

  void answer(const SessionPtr& session, std::string line) {
    asio::post(io_,
               [session, line = std::move(line)]() mutable { session->answer(std::move(line)); });
  }

  const ServerOptions options_;
  Service& service_;
  const sys::SocketGroup group_;
  ino_t inode_ = 0;
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io_.get_executor()};
  asio::local::stream_protocol::acceptor acceptor_;
  asio::steady_timer retry_;
  std::set<SessionPtr> sessions_;
  std::atomic<unsigned> operations_running_{0};
  bool cannot_accept_said_ = false;
  Workers snapshots_;
  Workers operations_;
  sys::Thread thread_;
};

Server::Server(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::start(ServerOptions options, Service& service) {
  auto listener = listen_control(options.socket_path, options.group, options.log);
  if (!listener) return std::unexpected(listener.error());
  try {
    auto impl = std::make_unique<Impl>(std::move(options), service, std::move(*listener));
    if (Status begun = impl->begin(); !begun) return std::unexpected(begun.error());
    return std::unique_ptr<Server>(new Server(std::move(impl)));
  } catch (const std::exception& error) {
    return fail(fmt::format("start the control server: {}", error.what()));
  }
}

}  // namespace ramfold::control
