# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeper, daemon and a RAM guest from an optimised build, in a directory of their own."""
import json
import os
import signal
import socket
import subprocess
import tempfile
import time

CONFIG = """
[fold]
when = "eager"
stall_budget = {stall_budget}
pass_seconds = 1
[scan]
cpu = {cpu}
threads = {threads}
[host]
reserve = "1%"
"""


class Host:
    def __init__(self, build, cpu=1.0, threads=1, stall_budget=100):
        self.build = build
        self.dir = tempfile.TemporaryDirectory(prefix="ramfold-bench-")
        self.config = os.path.join(self.dir.name, "ramfold.toml")
        with open(self.config, "w") as f:
            f.write(CONFIG.format(cpu=cpu, threads=threads, stall_budget=stall_budget))
        self.log = open(os.path.join(self.dir.name, "log"), "w+")
        self.keeper = self.spawn("src/keeper/ramfold-keeper", "--socket", self.path("keeper.sock"))
        self.until(lambda: os.path.exists(self.path("keeper.sock")))
        self.daemon = None
        self.guest = None
        self.start_daemon()
        self.until(lambda: os.path.exists(self.path("control.sock")))

    def path(self, name):
        return os.path.join(self.dir.name, name)

    def spawn(self, program, *args, **kw):
        return subprocess.Popen([os.path.join(self.build, program), *args], stderr=self.log,
                                text=True, **kw)

    @staticmethod
    def until(done, seconds=60):
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError("nothing happened in %d s" % seconds)
            time.sleep(0.05)

    def start_daemon(self):
        self.daemon = self.spawn("src/daemon/ramfoldd", "--config", self.config,
                                 "--runtime-dir", self.dir.name)

    def end_daemon(self, how=signal.SIGKILL):
        self.daemon.send_signal(how)
        self.daemon.wait()

    def ask(self, op, **fields):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path("control.sock"))
            s.sendall((json.dumps({"ramfold": 1, "id": 1, "op": op, **fields}) + "\n").encode())
            for line in s.makefile():
                answer = json.loads(line)
                if any(k in answer for k in ("snapshot", "vm", "done", "error")):
                    return answer
        raise ConnectionError("the daemon hung up")

    def agent_env(self):
        """The environment of a guest that loads the agent."""
        return dict(os.environ, RAMFOLD_AGENT_SOCKET=self.path("agent.sock"),
                    LD_PRELOAD=os.path.join(self.build, "src/agent/libramfold-agent.so"))

    def start_guest(self, gib, touchers):
        self.guest = self.spawn("bench/bench_ram_guest", str(gib), str(touchers),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.agent_env())
        assert self.guest.stdout.readline() == "ready\n"

    def tell(self, command):
        self.guest.stdin.write(command + "\n")
        self.guest.stdin.flush()
        return self.guest.stdout.readline().split()

    def folded(self):
        vms = self.ask("snapshot")["snapshot"]["vms"]
        return sum(v["saved"]["folded_pages"] for v in vms)

    def fold_all(self, pages, seconds=600):
        """Until nearly all pages are folded."""
        self.until(lambda: self.folded() >= pages * 0.97, seconds)

    def close(self):
        for process in (self.guest, self.daemon, self.keeper):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self.log.close()
        self.dir.cleanup()


def row(what, unit, ours, goal="", ok=None, floor=None, peer=None):
    return {"what": what, "unit": unit, "floor": floor, "ours": ours, "peer": peer,
            "ratio": ours / floor if floor else 0, "spread_percent": 0, "goal": goal, "ok": ok}
