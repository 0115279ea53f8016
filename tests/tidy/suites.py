#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`./check --suite` with an unknown word names the suites, as meson knows them.

suites.py BUILD"""
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> int:
    asked = subprocess.run([ROOT / "check", "--suite", "nosuch"], capture_output=True, text=True,
                           check=False)
    head, _, names = asked.stderr.strip().partition(": no suite 'nosuch': ")
    tests = json.loads(subprocess.check_output(["meson", "introspect", sys.argv[1], "--tests"]))
    known = {suite.split(":")[-1] for test in tests for suite in test["suite"]}
    faults = []
    if asked.returncode != 2 or asked.stdout or head != "check":
        faults.append(f"it ended with {asked.returncode} and said: {asked.stdout}{asked.stderr}")
    if set(names.split()) != known:
        faults.append(f"it names {names or 'nothing'}; the suites are {' '.join(sorted(known))}")
    print("\n".join(faults) or f"{len(known)} suites")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
