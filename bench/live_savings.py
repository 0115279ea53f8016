#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""live_savings.py BUILD [SET...]: measures how much of real guests' RAM is saved while they run.

For each set of bench/guest_sets.py four VMs are booted under the daemon and given their load:

  under load   the default policy, its mean over the second half of the load
  idle         then the dense policy, no page held back because it came back before, and five
               minutes without load; its mean over the last of them: guests have jobs that come
               every minute, and for some seconds hold what those touched

Saved is 1 - (what the guests' RAM files hold, by the host's account, + all that ramfold spends) /
(their pages that are not zero), in per cent. The number of pages that are not zero comes from a
picture of all RAM, taken at the end while the guests are stopped; under load, from the daemon's
count of pages. The oracle (bench/oracle.cpp) and the peers (bench/peers.cpp) work on the same
picture. Pages are folded as soon as they are cold (fold.when = "eager"): a test host has memory to
spare, and would fold nothing under the default."""
import json
import pathlib
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import ramfold_rig  # noqa: E402
import vm  # noqa: E402
from guest_sets import SETS, work  # noqa: E402
from host import row  # noqa: E402

PAGE = 4096
MEMORY_MIB = 512
READY_S_MAX = 300
IDLE_S = 300
LAST_S = 60
SAMPLE_S = 5
ORACLE_PAGES = 4096
GOAL = 0.95  # of the oracle's
FOLD = {"when": "eager", "pass_seconds": 2.0}
DEFAULT = {"fold": FOLD, "scan": {}}
# ramcheck edits and verifies its working set for as long as it runs.
REST = ("for p in /proc/[0-9]*; do "
        "[ \"$(cat $p/comm 2>/dev/null)\" != ramcheck ] || kill -STOP ${p#/proc/}; done")
DENSE = {"fold": {**FOLD, "backoff": False, "stall_budget": 100}, "scan": {"cpu": 1.0},
         "reform": {"policy": "dense", "cpu": 1.0}}


def say(text):
    print(f"live-savings: {text}", file=sys.stderr, flush=True)


def spent_bytes(spent):
    """Everything that ramfold takes: memory behind stored contents, and what is beside them."""
    return spent["arena_used_bytes"] + spent["overhead_bytes"]


class Guests:
    """The VMs of a set under a daemon, and what is saved of them."""

    def __init__(self, build, run_dir, name):
        self.rig = ramfold_rig.Rig(build, run_dir, DEFAULT)
        self.rig.start()
        kinds = SETS[name][1]
        self.vms = [vm.Vm(vm.guest(kind), f"{kind}{number}", run_dir, memory_mib=MEMORY_MIB,
                          env=self.rig.qemu_env) for number, kind in enumerate(kinds)]
        for one in self.vms:
            one.start()
        for one in self.vms:
            one.wait_ready(READY_S_MAX)
        self.rig.wait("all attached", lambda: len(self.rig.snapshot()["vms"]) == len(kinds), 60)

    def kept(self):
        """What guests and ramfold take now, in bytes; pages not zero, by the daemon's count."""
        snapshot = self.rig.snapshot()
        resident = sum(one.ram_resident_bytes() for one in self.vms)
        nonzero = sum(one["pages"]["touched"] - one["saved"]["zero"]["pages"]
                      for one in snapshot["vms"])
        return resident + spent_bytes(snapshot["host"]["spent"]), nonzero

    def load(self):
        """All guests at work, each at its own pace; saved shares while they are, [(s, share)]."""
        workers = [threading.Thread(target=work, args=(one,)) for one in self.vms]
        began = time.monotonic()
        for worker in workers:
            worker.start()
        seen = []
        while any(worker.is_alive() for worker in workers):
            time.sleep(SAMPLE_S)
            kept, nonzero = self.kept()
            seen.append((time.monotonic() - began, 1 - kept / (nonzero * PAGE)))
        return seen

    def idle(self):
        """Bytes kept, over the time without load: [(s, bytes)]."""
        for one in self.vms:
            one.sh(REST)
        began = time.monotonic()
        seen = []
        while (at := time.monotonic() - began) < IDLE_S:
            seen.append((at, self.kept()[0]))
            time.sleep(SAMPLE_S)
        return [*seen, (time.monotonic() - began, self.kept()[0])]

    def picture(self, directory):
        """All RAM, as the guests see it, into files. Brings back what was folded."""
        directory.mkdir()
        for one in self.vms:
            one.qmp("stop")
            path = directory / f"{one.name}.ram"
            one.qmp("pmemsave", timeout_s=120, val=0, size=MEMORY_MIB << 20, filename=str(path))

    def stop(self):
        for one in self.vms:
            one.stop()
        self.rig.stop()


def ask(build, program, *arguments):
    done = subprocess.run([f"{build}/bench/{program}", *map(str, arguments)],
                          stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0


def measure(build, name):
    with vm.RunDir() as run_dir:
        guests = Guests(build, run_dir, name)
        try:
            say(f"{name}: {len(guests.vms)} guests are ready")
            cpu_before = guests.rig.cpu_seconds()
            loaded = guests.load()
            load_s, load_cpu = loaded[-1][0], guests.rig.cpu_seconds() - cpu_before
            under_load = 100 * mean(share for at, share in loaded if at > load_s / 2)
            say(f"{name}: {under_load:.1f} % under load; idle for {IDLE_S} s from now")
            guests.rig.use(DENSE)
            cpu_before = guests.rig.cpu_seconds()
            curve = guests.idle()
            cpu = guests.rig.cpu_seconds() - cpu_before
            host = guests.rig.host()
            say(f"{name}: in RAM {sum(one.ram_resident_bytes() for one in guests.vms)}, "
                f"spent {host['spent']}, kept how {host['reform']['forms']}")
            guests.picture(run_dir / "picture")
        finally:
            guests.stop()
        peers = ask(build, "bench_peers", run_dir / "picture")
        say(f"{name}: the oracle is asked")
        oracle = ask(build, "bench_oracle", ORACLE_PAGES, run_dir / "picture")["oracle"]
    nonzero = peers["nonzero_pages"] * PAGE
    shares = [(at, 100 * (1 - kept / nonzero)) for at, kept in curve]
    saved = mean(share for at, share in shares if at >= IDLE_S - LAST_S)
    soon = next(at for at, share in shares if share >= GOAL * saved)
    best = oracle["saved_percent"]
    return [
        row(f"{name}: saved net, idle {IDLE_S} s, dense (floor: the oracle, "
            f"+- {oracle['plus_minus']})", "%", saved,
            f">= {GOAL:.0%} of the oracle", saved >= GOAL * best, floor=best),
        row(f"{name}: ... {GOAL:.0%} of that after", "s", soon),
        row(f"{name}: ... CPU of daemon and keeper for it", "s", cpu),
        row(f"{name}: ... in bytes", "MiB", nonzero * saved / 100 / 2**20,
            floor=nonzero / 2**20),
        row(f"{name}: the same RAM, ideal KSM", "%", saved, peer=peers["ksm"]),
        row(f"{name}: the same RAM, equal pages once, LZ4", "%", saved,
            peer=peers["sharing_lz4"]),
        row(f"{name}: the same RAM, LZ4 of each page (zram)", "%", saved, peer=peers["lz4"]),
        row(f"{name}: saved net, under load, default policy", "%", under_load),
        row(f"{name}: ... CPU of daemon and keeper, of one core", "%", 100 * load_cpu / load_s),
    ]


def main():
    vm.exit_on_signals()
    names = sys.argv[2:] or list(SETS)
    vm.build_images(*sorted({kind for name in names for kind in SETS[name][1]}))
    rows = [one for name in names for one in measure(sys.argv[1], name)]
    print(json.dumps({"name": "live-savings", "rows": rows}))
    return 0 if all(one["ok"] is not False for one in rows) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vm.VmError as problem:
        sys.exit(f"live-savings: {problem}")
