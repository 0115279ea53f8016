#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""sweeping_guest.py MIB SECONDS: a process with RAM like QEMU's, to be run under the agent. It
reads all of its pages in SECONDS, again and again; with 0 it reads none. Prints "ready" when its
RAM is filled; ends with its stdin."""
import fcntl
import mmap
import os
import select
import sys
import time

PAGE = 4096


def main():
    pages = int(sys.argv[1]) * 256
    period = float(sys.argv[2])
    ram = os.memfd_create("memory-backend-memfd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(ram, pages * PAGE)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL  # as QEMU's
    fcntl.fcntl(ram, fcntl.F_ADD_SEALS, seals)
    memory = mmap.mmap(ram, pages * PAGE, mmap.MAP_SHARED)
    for page in range(pages):
        memory[page * PAGE:(page + 1) * PAGE] = page.to_bytes(8, "little") * (PAGE // 8)
    print("ready", flush=True)
    page = 0
    began = time.monotonic()
    while not select.select([sys.stdin], [], [], 0.02 if period else 1)[0]:
        due = int((time.monotonic() - began) / period * pages) if period else 0
        while page < due:
            memory[page % pages * PAGE]
            page += 1


if __name__ == "__main__":
    main()
