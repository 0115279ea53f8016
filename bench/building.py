# SPDX-License-Identifier: GPL-2.0-or-later
"""The optimised build that benches run from: `build(targets)` makes it."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build-bench")


def build(targets):
    """Installs what is missing and builds; ends the program when it cannot."""
    def run(*command):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        if done.returncode != 0:
            sys.exit(done.stdout + f"\nbench: {' '.join(command)} failed")

    run("scripts/deps.sh", "build", "test")
    if not os.path.exists(os.path.join(BUILD, "build.ninja")):
        print("setting up build-bench (optimised)", file=sys.stderr)
        run("meson", "setup", BUILD, "-Dbuildtype=release", "-Dchecks=false")
    print("building", file=sys.stderr)
    run("ninja", "-C", BUILD, *targets)
