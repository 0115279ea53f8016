#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""on_corpus.py PROGRAM: makes the guests' RAM if it is missing, then runs a program over it."""
import pathlib
import subprocess
import sys

BENCH = pathlib.Path(__file__).resolve().parent
SETS = ["same", "different"]


def main():
    made = subprocess.run([BENCH / "corpus", "make", *SETS], stdout=subprocess.PIPE, text=True,
                          check=False)
    if made.returncode:
        sys.exit("on_corpus: there is no guests' RAM to work on")
    arguments = [word for pair in zip(SETS, made.stdout.split()) for word in pair]
    sys.exit(subprocess.run([sys.argv[1], *arguments], check=False).returncode)


if __name__ == "__main__":
    main()
