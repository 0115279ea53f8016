#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""recovery.py BUILD [GIB...]: a daemon is killed with 1, 4, 16 GiB folded and a guest thread
waiting in a fault; how long from the start of the next one until that thread goes on, and until
folding may go on."""
import json
import statistics
import sys
import time

import host

PAGES_A_GIB = 1 << 18
REPEATS = 5
GOAL_MS = 250


def measure(build, gib):
    h = host.Host(build, cpu=1.0)
    try:
        h.start_guest(gib, 0)
        h.fold_all(gib * PAGES_A_GIB)
        first, full = [], []
        for _ in range(REPEATS):
            h.kill_daemon()
            h.guest.stdin.write("read 1\n")  # waits: nobody serves
            h.guest.stdin.flush()
            time.sleep(0.2)
            began = time.monotonic()
            h.start_daemon()
            h.guest.stdout.readline()
            first.append((time.monotonic() - began) * 1e3)
            while True:
                try:
                    if h.ask("snapshot")["snapshot"]["host"]["state"] != "starting":
                        break
                except OSError:
                    pass
                time.sleep(0.005)
            full.append((time.monotonic() - began) * 1e3)
            time.sleep(1)
        return statistics.median(first), max(first), statistics.median(full)
    finally:
        h.close()


def main():
    rows = []
    for gib in [int(a) for a in sys.argv[2:]] or [1, 4, 16]:
        median, worst, full = measure(sys.argv[1], gib)
        rows.append(host.row(f"{gib} GiB folded: first waiting fault answered", "ms", median,
                             f"<= {GOAL_MS} ms, worst of {REPEATS}: {worst:.0f}", worst <= GOAL_MS))
        rows.append(host.row(f"{gib} GiB folded: full service", "ms", full))
    print(json.dumps({"name": "recovery", "rows": rows}))
    return 0 if all(r["ok"] is not False for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
