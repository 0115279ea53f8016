#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""recovery.py BUILD [GIB...]: a daemon is killed, or told to end, with 1, 4, 16 GiB folded and a
guest thread waiting in a fault; how long until that thread goes on, and until folding may go on:
from the start of the next daemon, and from the signal. A daemon that is told to end may not take
much longer than one that is killed."""
import json
import signal
import statistics
import sys
import time

import host

PAGES_A_GIB = 1 << 18
REPEATS = 5
GOAL_MS = 250
GOAL_RATIO = 1.5


class Series:
    """Milliseconds of several restarts."""

    def __init__(self, h, how):
        self.first, self.full = [], []  # from the start of the next daemon
        self.waits, self.gaps = [], []  # from the signal
        for _ in range(REPEATS):
            self._restart(h, how)
            time.sleep(1)

    def _restart(self, h, how):
        told = time.monotonic()
        h.end_daemon(how)
        h.guest.stdin.write("read 1\n")  # waits: nobody serves
        h.guest.stdin.flush()
        began = time.monotonic()
        h.start_daemon()
        h.guest.stdout.readline()
        served = time.monotonic()
        while True:
            try:
                if h.ask("snapshot")["snapshot"]["host"]["state"] != "starting":
                    break
            except OSError:
                pass
            time.sleep(0.005)
        full = time.monotonic()
        for times, begin, end in ((self.first, began, served), (self.full, began, full),
                                  (self.waits, told, served), (self.gaps, told, full)):
            times.append((end - begin) * 1e3)


def measure(build, gib):
    h = host.Host(build, cpu=1.0)
    try:
        h.start_guest(gib, 0)
        h.fold_all(gib * PAGES_A_GIB)
        return Series(h, signal.SIGKILL), Series(h, signal.SIGTERM)
    finally:
        h.close()


def main():
    rows = []
    for gib in [int(a) for a in sys.argv[2:]] or [1, 4, 16]:
        killed, told = measure(sys.argv[1], gib)
        what = f"{gib} GiB folded"
        worst = max(killed.first)
        rows.append(host.row(f"{what}: first waiting fault answered", "ms",
                             statistics.median(killed.first),
                             f"<= {GOAL_MS} ms, worst of {REPEATS}: {worst:.0f}", worst <= GOAL_MS))
        rows.append(host.row(f"{what}: full service", "ms", statistics.median(killed.full)))
        for until, one, other in (("that fault", killed.waits, told.waits),
                                  ("full service", killed.gaps, told.gaps)):
            one, other = statistics.median(one), statistics.median(other)
            rows.append(host.row(f"{what}: from SIGKILL until {until}", "ms", one))
            rows.append(host.row(f"{what}: from SIGTERM until {until}", "ms", other,
                                 f"<= {GOAL_RATIO} x SIGKILL", other <= GOAL_RATIO * one))
    print(json.dumps({"name": "recovery", "rows": rows}))
    return 0 if all(r["ok"] is not False for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
