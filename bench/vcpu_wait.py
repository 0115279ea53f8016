#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""vcpu_wait.py BUILD [GIB]: the longest that a guest thread, touching a random page every
millisecond, waited while its RAM was observed, folded, served and unfolded; beside the same guest
left alone. The floor is the longest that a thread of the same guest waited, in the same phase, for
another's answer through a pipe: the machine's own."""
import json
import sys
import time

import host

PAGES_A_GIB = 1 << 18
ALONE_S = 10
SERVED_S = 10


def longest(h):
    _, wait, echo = h.tell("wait")
    return {"ours": float(wait), "floor": float(echo)}


def main():
    gib = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    h = host.Host(sys.argv[1], cpu=1.0)
    try:
        h.ask("pause")
        h.start_guest(gib, 2)
        longest(h)
        time.sleep(ALONE_S)
        alone = longest(h)
        h.ask("resume")
        h.fold_all(gib * PAGES_A_GIB * 0.95)
        folding = longest(h)
        time.sleep(SERVED_S)
        served = longest(h)
        h.ask("off")
        unfolding = longest(h)
        rows = [host.row("longest wait, left alone", "us", **alone),
                host.row(f"observed and folded ({gib} GiB)", "us", **folding),
                host.row(f"folded, served for {SERVED_S} s", "us", **served),
                host.row("unfolded", "us", **unfolding)]
        print(json.dumps({"name": "vcpu-wait", "rows": rows}))
    finally:
        h.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
