# SPDX-License-Identifier: GPL-2.0-or-later
"""A keeper and a daemon of one's own, in a private directory: for the demo, the VM tests, by hand.

    with ramfold_rig.Rig(build_dir, run_dir) as rig:
        with vm.Vm(vm.guest("mini"), "m1", run_dir, env=rig.qemu_env) as m1:
            rig.wait_folded("m1", pages=5000, timeout_s=60)
            rig.kill_daemon()
            rig.start_daemon()
            print(rig.vm("m1")["saved"])

Leaving the context switches ramfold off, which brings every page back, and ends both processes.
Processes die with the thread that started them: start a rig from the main thread.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from vm import VmError
from patience import deadline, slower
from sockets import listening

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
START_S_MAX = 30
CONFIG = {"fold": {"when": "eager", "pass_seconds": 1.0, "stall_budget": 100}, "scan": {"cpu": 0.5}}


class RigError(VmError):
    """ramfold did not do what it was asked to. `error` is the daemon's answer, if there was one."""

    def __init__(self, text, error=None):
        super().__init__(text)
        self.error = error or {}


class NoAnswer(RigError):
    """The daemon did not answer in time. Nothing is known of what it was asked."""


def to_toml(config):
    """The small part of TOML that the configuration needs: plain values, and tables of such."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items()
             if not isinstance(value, dict)]
    for table, values in config.items():
        if not isinstance(values, dict):
            continue
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def cpu_seconds(pid):
    """CPU time that a process has used; 0 when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


class Rig:
    """Keeper and daemon from a build directory.

    config   keys and tables that replace those of CONFIG, as {"fold": {...}}
    """

    def __init__(self, build_dir, run_dir, config=None):
        build = pathlib.Path(build_dir).resolve()
        self.keeper_binary = build / "src/keeper/ramfold-keeper"
        self.daemon_binary = build / "src/daemon/ramfoldd"
        self.agent = build / "src/agent/libramfold-agent.so"
        self.cli = build / "src/cli/ramfold"
        self.dir = pathlib.Path(run_dir).resolve() / "ramfold"
        self.config = {**CONFIG, **(config or {})}
        self.keeper = None
        self.daemon = None
        self._cpu_of_dead = 0.0

    # ---- processes ------------------------------------------------------------------------------

    @property
    def qemu_env(self):
        """What QEMU needs in its environment; `ramfold exec` does the same."""
        return {"LD_PRELOAD": str(self.agent), "RAMFOLD_AGENT_SOCKET": str(self.dir / "agent.sock")}

    def _spawn(self, name, *command):
        with open(self.dir / f"{name}.log", "a", encoding="utf-8") as log:
            return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        for path in (self.keeper_binary, self.daemon_binary, self.agent):
            if not path.exists():
                raise RigError(f"{path} is not built")
        self.dir.mkdir(parents=True, exist_ok=True)
        self._write_config()
        self.keeper = self._spawn("keeper", self.keeper_binary, "--socket",
                                  self.dir / "keeper.sock")
        self._wait(self.keeper, "keeper", lambda: listening(self.dir / "keeper.sock"))
        self.start_daemon()
        return self

    def _write_config(self):
        (self.dir / "ramfold.toml").write_text(to_toml(self.config))

    def use(self, config):
        """Tables that replace those of CONFIG from now on: a daemon takes over from this one."""
        self.config = {**CONFIG, **config}
        self.stop_daemon()
        self._write_config()
        self.start_daemon()

    def start_daemon(self):
        """Starts the daemon and waits until it answers; returns after how many seconds."""
        began = time.monotonic()
        self.daemon = self._spawn("daemon", self.daemon_binary, "--config",
                                  self.dir / "ramfold.toml", "--runtime-dir", self.dir)
        self._wait(self.daemon, "daemon", self._answers)
        return time.monotonic() - began

    def kill_daemon(self):
        """SIGKILL, as a crash would have it. What is folded stays with the keeper."""
        self._cpu_of_dead += cpu_seconds(self.daemon.pid)
        self.daemon.kill()
        self.daemon.wait()

    def stop_daemon(self):
        """A polite end, as an upgrade would have it; VMs stay folded."""
        self._cpu_of_dead += cpu_seconds(self.daemon.pid)
        self.daemon.terminate()
        return self.daemon.wait(START_S_MAX)

    def log(self, name="daemon"):
        return (self.dir / f"{name}.log").read_text(errors="replace")

    def _answers(self):
        try:
            return bool(self.snapshot())
        except (OSError, RigError):
            return False

    def _wait(self, process, name, ready):
        end = deadline(START_S_MAX)
        while not ready():
            if process.poll() is not None:
                raise RigError(f"{name} ended with {process.returncode}: {self.log(name)[-1000:]}")
            if time.monotonic() > end:
                raise RigError(f"{name} is not ready: {self.log(name)[-1000:]}")
            time.sleep(0.02)

    def stop(self):
        """Off first, then the daemon, then the keeper, which goes once it holds nothing."""
        problem = None
        try:
            if self.daemon is not None and self.daemon.poll() is None:
                self.off()
        except (OSError, RigError) as error:
            problem = error
        for process in (self.daemon, self.keeper):
            if process is None or process.poll() is not None:
                continue
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if problem is not None:
            raise RigError(f"off: {problem}")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind, *_):
        try:
            self.stop()
        except RigError:
            if kind is None:
                raise

    # ---- questions ------------------------------------------------------------------------------

    def ask(self, op, progress=None, timeout_s=120, **fields):
        """One request: the last line of the answer. progress(line) sees those before it. NoAnswer
        when none of them comes in time."""
        try:
            return self._ask(op, progress, timeout_s, fields)
        except socket.timeout:
            raise NoAnswer(f"{op}: the daemon does not answer in time ({timeout_s} s on a machine "
                           "that is not busy)") from None

    def _ask(self, op, progress, timeout_s, fields):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(timeout_s * slower())
            link.connect(str(self.dir / "control.sock"))
            link.sendall(json.dumps({"ramfold": 1, "op": op, **fields}).encode() + b"\n")
            for text in link.makefile("r"):
                line = json.loads(text)
                if "error" in line:
                    raise RigError(f"{op}: {line['error']['text']}", line["error"])
                if {"snapshot", "vm", "done"} & line.keys():
                    return line
                if progress:
                    progress(line)
        raise RigError(f"{op}: the daemon closed the connection")

    def snapshot(self):
        return self.ask("snapshot", timeout_s=10)["snapshot"]

    def host(self):
        return self.snapshot()["host"]

    def vm(self, name):
        """What the daemon says of one VM."""
        return self.ask("show", vm=name, timeout_s=10)["vm"]

    def reasons(self, name):
        """Why a VM saves nothing: {code: (text, remedy)}."""
        return {one["code"]: (one["text"], one["remedy"]) for one in self.vm(name)["reasons"]}

    def detach(self, name, progress=None):
        return self.ask("detach", progress, vm=name)

    def off(self, progress=None):
        return self.ask("off", progress)

    def command(self, *arguments):
        """The `ramfold` command, finished."""
        socket_path = str(self.dir / "control.sock")
        return subprocess.run([str(self.cli), *arguments, "--socket", socket_path],
                              capture_output=True, text=True, check=False, timeout=60 * slower())

    def cpu_seconds(self):
        """CPU time that keeper and daemons have used since the start, as the kernel counts it."""
        return self._cpu_of_dead + cpu_seconds(self.keeper.pid) + cpu_seconds(self.daemon.pid)

    # ---- waiting --------------------------------------------------------------------------------

    def wait(self, what, condition, timeout_s):
        """Waits until condition() is true, and returns what it returned."""
        end = deadline(timeout_s)
        while True:
            if self.daemon.poll() is not None:
                how = signal.Signals(-self.daemon.returncode).name if self.daemon.returncode < 0 \
                    else str(self.daemon.returncode)
                raise RigError(f"the daemon ended ({how}): {self.log()[-2000:]}")
            found = condition()
            if found:
                return found
            if time.monotonic() > end:
                raise RigError(f"{what}: not after {timeout_s} s: {self.log()[-1000:]}")
            time.sleep(0.2)

    def _vm_if(self, name, condition):
        try:
            view = self.vm(name)
        except RigError:
            return None  # not attached yet
        return view if condition(view) else None

    def wait_folded(self, name, pages, timeout_s=90):
        """Waits until so many pages of a VM are folded; its view then."""
        try:
            return self.wait(f"{name}: {pages} pages folded", lambda: self._vm_if(
                name, lambda view: view["saved"]["folded_pages"] >= pages), timeout_s)
        except RigError as problem:
            raise RigError(f"{problem}; {self._summary(name)}") from None

    def wait_reason(self, name, code, timeout_s=30):
        """Waits until a VM is observed only for this reason; its view then."""
        try:
            return self.wait(f"{name}: reason {code}", lambda: self._vm_if(
                name, lambda view: code in [one["code"] for one in view["reasons"]]), timeout_s)
        except RigError as problem:
            raise RigError(f"{problem}; {self._summary(name)}") from None

    def _summary(self, name):
        try:
            view = self.vm(name)
            return (f"{name}: {view['state']}, {view['saved']['folded_pages']} folded, "
                    f"{view['pages']['resident']} resident, reasons {view['reasons']}")
        except (OSError, RigError) as problem:
            return f"{name}: {problem}"
