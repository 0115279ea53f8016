#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows that the fuzzer finds what it should: each seeded bug within 60 s, with three seeds each.

The bugs leave one check of src/guest/agent_messages.cpp out. Not part of the normal suite.
"""
import sys
import tempfile
from pathlib import Path

from fuzz import build, run

# What the bug is, and what must be found: not just anything.
BUGS = {1: ("length", "AddressSanitizer: heap-buffer-overflow"),
        2: ("overlap", "a.end <= b.begin"),
        3: ("descriptor count", "descriptors[1 + i] == 1|fd_count == 1")}
SECONDS_MAX = 60


def main():
    missed = 0
    with tempfile.TemporaryDirectory(prefix="ramfold-fuzz-") as scratch:
        for bug, (what, sign) in BUGS.items():
            binary = build("offer", bug, Path(scratch))
            for seed in (1, 2, 3):
                directory = Path(scratch) / f"bug{bug}-{seed}"
                directory.mkdir()
                found, executions, _, took = run("offer", binary, SECONDS_MAX, directory, seed)
                ok = found is not None and any(part in found for part in sign.split("|"))
                missed += not ok
                print(f"{what}, seed {seed}: {'found' if ok else 'NOT FOUND'} after {took:.1f} s, "
                      f"{executions} inputs: {found or ''}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
