#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the cases of a test that need something to swap to: with_swap.py TEST. Exits 77 where there
is no zram."""
import subprocess
import sys

from zram import Zram

device = Zram()
try:
    sys.exit(subprocess.run([sys.argv[1], '[swap]'], check=False).returncode)
finally:
    device.close()
