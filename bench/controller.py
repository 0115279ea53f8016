#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""controller.py BUILD [SECONDS]: a guest that reads its memory cyclically beside one that does
not. How much of its time does the first wait for ramfold, without a stall budget and with one of
1 %, and how much of the second is folded meanwhile?

controller.py --record FILE BUILD SECONDS: without a budget; FILE gets what the controller would
have sensed of the first guest, a line each second, for tests/unit/policy/traces."""
import json
import os
import subprocess
import sys
import time

import host

MIB = 64
PERIOD_S = 20
BUDGET = 0.01
SETTLE_S = 30  # the first sweeps, while the controller meets the guest
HERE = os.path.dirname(os.path.abspath(__file__))


class Guests:
    def __init__(self, h, periods):
        self.host = h
        self.processes = [subprocess.Popen(
            [sys.executable, os.path.join(HERE, "sweeping_guest.py"), str(MIB), str(period)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=h.log, text=True,
            env=h.agent_env())
            for period in periods]
        for process in self.processes:
            if process.stdout.readline() != "ready\n":
                raise ConnectionError("a guest did not start")

    def views(self):
        vms = {v["pid"]: v for v in self.host.ask("snapshot")["snapshot"]["vms"]}
        return [vms.get(process.pid) for process in self.processes]

    def attached(self):
        self.host.until(lambda: all(v and v["state"] == "folding" for v in self.views()))

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()


def measure(build, budget, seconds):
    h = host.Host(build, stall_budget=budget)
    guests = Guests(h, [PERIOD_S, 0])
    try:
        guests.attached()
        time.sleep(SETTLE_S)
        before = guests.views()[0]["stalled_seconds"]
        began = time.monotonic()
        time.sleep(seconds)
        sweeper, neighbour = guests.views()
        stall = (sweeper["stalled_seconds"] - before) / (time.monotonic() - began)
        pages = MIB * 256
        return stall, sweeper["saved"]["folded_pages"] / pages, \
            neighbour["saved"]["folded_pages"] / pages
    finally:
        guests.close()
        h.close()


def record(path, build, seconds):
    h = host.Host(build)
    guests = Guests(h, [PERIOD_S])
    try:
        guests.attached()
        began = time.monotonic()
        with open(path, "w") as trace:
            trace.write("# milliseconds, stalled microseconds, faults, returned, vCPUs, resident "
                        "pages: a guest of %d MiB,\n# read once in %d s, eager, no stall budget\n"
                        % (MIB, PERIOD_S))
            while (now := time.monotonic() - began) < seconds:
                vm = guests.views()[0]
                counted = vm["counters"]
                faults = sum(counted["faults_" + kind] for kind in ("zero", "content", "write"))
                trace.write("%d %d %d %d %d %d\n" % (
                    now * 1e3, vm["stalled_seconds"] * 1e6, faults, vm["backoff"]["returns"],
                    vm["vcpus"], vm["pages"]["resident"]))
                time.sleep(1)
    finally:
        guests.close()
        h.close()


def main():
    if sys.argv[1] == "--record":
        return record(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 120
    free, free_folded, _ = measure(sys.argv[1], 100, seconds)
    stall, folded, neighbour = measure(sys.argv[1], BUDGET, seconds)
    rows = [host.row("stall of the sweeping guest, no budget", "%", free * 100),
            host.row("the same, budget 1 %", "%", stall * 100, "<= 1", stall <= BUDGET),
            host.row("folded of the sweeping guest, no budget", "%", free_folded * 100),
            host.row("the same, budget 1 %", "%", folded * 100),
            host.row("folded of its neighbour", "%", neighbour * 100, ">= 97", neighbour >= 0.97)]
    print(json.dumps({"name": "controller", "rows": rows}))
    return 0 if all(r["ok"] is not False for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
