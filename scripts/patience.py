# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a test waits for an event: ten times what is normal, and longer on a machine that is
busy or with a sanitizer. A test fails by what happened, never by how long it took.

patience.py SECONDS: prints, for scripts of the shell, how long they take here; whole seconds."""

import math
import os
import sys
import time

SANITIZED = bool(os.environ.get('RAMFOLD_SANITIZER'))
SLOWER_MAX = 64  # so that a test ends on any machine


def slower() -> float:
    """Threads that want to run for each processor, now or in the last minute; at least 1. Four
    times that with a sanitizer."""
    with open('/proc/loadavg', encoding='ascii') as loads:
        fields = loads.read().split()
    running = int(fields[3].split('/')[0])
    busy = max(1.0, float(fields[0]) / os.cpu_count(), running / os.cpu_count())
    return min(SLOWER_MAX, 4 * busy if SANITIZED else busy)


class Patience:
    """So many seconds on a machine that is not busy. Load that comes while a test waits counts:
    `is_over` wants to be asked again and again."""

    def __init__(self, seconds: float):
        self._left = seconds
        self._asked = time.monotonic()

    def is_over(self) -> bool:
        """Whether the seconds have passed, each as long as the load of its time made it."""
        now = time.monotonic()
        self._left -= (now - self._asked) / slower()
        self._asked = now
        return self._left <= 0


def deadline(seconds: float) -> float:
    """When, by time.monotonic(), so many seconds have passed on a machine that is not busy."""
    return time.monotonic() + seconds * slower()


if __name__ == '__main__':
    print(math.ceil(float(sys.argv[1]) * slower()))
