#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""patch_codec.py BUILD: makes the guests' RAM if it is missing, then runs the bench over it."""
import os
import pathlib
import subprocess
import sys

BENCH = pathlib.Path(__file__).resolve().parent
SETS = ["same", "different"]


def main():
    made = subprocess.run([BENCH / "corpus", "make", *SETS], stdout=subprocess.PIPE, text=True,
                          check=False)
    if made.returncode:
        sys.exit("patch_codec: there is no guests' RAM to work on")
    program = os.path.join(sys.argv[1], "bench", "bench_patch_codec")
    arguments = [word for pair in zip(SETS, made.stdout.split()) for word in pair]
    sys.exit(subprocess.run([program, *arguments], check=False).returncode)


if __name__ == "__main__":
    main()
