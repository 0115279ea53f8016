#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""record_layout.py PID PID: how zero pages, exact duplicates and unique pages lie in the RAM of two
running QEMUs with memfd RAM: `kind length count` a line, for bench/layouts/. Pages that were never
touched are left out."""
import collections
import hashlib
import os
import sys

PAGE = 4096


def ram_file(pid):
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
            return open(path, "rb", buffering=0)
    sys.exit(f"pid {pid} has no memfd RAM")


def pages(ram):
    """(index, bytes) of the pages that are there."""
    size = os.fstat(ram.fileno()).st_size
    at = 0
    while True:
        try:
            at = os.lseek(ram.fileno(), at, os.SEEK_DATA)
            end = os.lseek(ram.fileno(), at, os.SEEK_HOLE)
        except OSError:
            return
        while at < min(end, size):
            yield at // PAGE, os.pread(ram.fileno(), PAGE, at)
            at += PAGE


def main():
    zero = bytes(PAGE)
    seen = collections.Counter()
    vms = []
    for pid in sys.argv[1:3]:
        digests = {}
        with ram_file(pid) as ram:
            for index, page in pages(ram):
                digest = b"" if page == zero else hashlib.blake2b(page, digest_size=16).digest()
                digests[index] = digest
                seen[digest] += 1
        vms.append(digests)
    runs = collections.Counter()
    for digests in vms:
        last, length, before = None, 0, None
        for index in sorted(digests):
            digest = digests[index]
            kind = "zero" if digest == b"" else "duplicate" if seen[digest] > 1 else "unique"
            if kind == last and before == index - 1:
                length += 1
            else:
                if last:
                    runs[last, length] += 1
                last, length = kind, 1
            before = index
        if last:
            runs[last, length] += 1
    for (kind, length), count in sorted(runs.items()):
        print(kind, length, count)


if __name__ == "__main__":
    main()
