#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel says of pages in swap: pins_swap.py TEST_PINS. Exits 77 where there is no zram to
swap to."""
import subprocess
import sys

from zram import Zram

device = Zram()
try:
    sys.exit(subprocess.run([sys.argv[1], '[swap]'], check=False).returncode)
finally:
    device.close()
