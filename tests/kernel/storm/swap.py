#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The host swaps guest memory out while the daemon folds it.

swap.py storm: random pages of the guests, guarded, clean or neither, go to swap without end while
they write, read, discard and verify, and the daemon is killed now and then.
swap.py idle: pages that lie in swap stay there while the daemon passes over them again and again.
Exits 77 where there is no zram to swap to."""
import os
import random
import sys
import threading
import time

from rig import Failed, Rig, need_userfaultfd, run, say
from patience import deadline
from storm import LONG, SEED, finish, kill_delay, start
from zram import Zram, page_out

PAGE = 4096
# Fewer make no storm.
WRITTEN_MIN = 2000
BROUGHT_BACK_MIN = 500


class Ram:
    """A guest's RAM as the host sees it."""

    def __init__(self, guest):
        self.pid = guest.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.start, self.end = self._range()

    def close(self):
        os.close(self.pidfd)

    def _range(self):
        with open(f'/proc/{self.pid}/maps') as f:
            for line in f:
                if 'memfd:memory-backend-memfd' in line:
                    return [int(x, 16) for x in line.split()[0].split('-')]
        raise Failed('the guest maps no RAM')

    def page_out(self, first=0, pages=None):
        """Puts the range to swap; what the kernel cannot move now stays."""
        size = (self.end - self.start) if pages is None else pages * PAGE
        page_out(self.pidfd, self.start + first * PAGE, size)

    def pages(self):
        return (self.end - self.start) // PAGE

    def read_file(self):
        """Reads all of the RAM file, which is what no scan may do."""
        for fd in os.listdir(f'/proc/{self.pid}/fd'):
            if 'memory-backend-memfd' in os.readlink(f'/proc/{self.pid}/fd/{fd}'):
                with open(f'/proc/{self.pid}/fd/{fd}', 'rb') as f:
                    while f.read(1 << 20):
                        pass
                return


def swap_in_use(zram):
    with open('/proc/swaps') as f:
        for line in f:
            if line.startswith(zram.device + ' '):
                return int(line.split()[3]) // 4
    raise Failed('the swap device is gone')


def storm(rig, zram):
    dice = random.Random(SEED)
    start(rig)
    rams = [Ram(guest) for guest in rig.guests]
    stop = threading.Event()

    def page_out_for_ever():
        while not stop.wait(0.01):
            ram = dice.choice(rams)
            first = dice.randrange(ram.pages())
            ram.page_out(first, min(dice.choice((1, 16, 256)), ram.pages() - first))

    def written_pages():
        with open(f'/sys/block/zram{zram.number}/stat') as f:
            return int(f.read().split()[4])

    before = written_pages()
    pager = threading.Thread(target=page_out_for_ever)
    pager.start()
    try:
        seconds = 600 if LONG else 15
        least = time.monotonic() + seconds
        end = deadline(10 * seconds)
        while time.monotonic() < least \
                or written_pages() - before < WRITTEN_MIN or rig.brought_back < BROUGHT_BACK_MIN:
            if time.monotonic() > end:
                raise Failed(f'no storm: {written_pages() - before} pages written to swap, '
                             f'{rig.counted()}')
            time.sleep(1 + kill_delay(dice))
            rig.count()
            rig.must_be_well()
            rig.kill_daemon()
            rig.start_daemon()
        rig.wait_folded(300, 60)
        rig.count()
    finally:
        stop.set()
        pager.join()
    written = written_pages() - before
    finish(rig)
    say(f'{rig.kills} kills, {written} pages written to swap, {rig.counted()}, no wrong byte')
    for ram in rams:
        ram.close()


def idle(rig, zram):
    guest = rig.add_guest('--pages', '8192')
    end = deadline(60)
    while guest.status()['stores'] < 6000:
        if time.monotonic() > end:
            raise Failed('the guest fills its RAM too slowly')
        time.sleep(0.1)
    guest.ask('rest', 10)
    ram = Ram(guest)
    ram.page_out()
    before = swap_in_use(zram)
    if before < 2000:
        raise Failed(f'only {before} pages went to swap')
    rig.start_daemon()
    end = deadline(30)
    passes = 0
    while passes < 20:
        snapshot = rig.snapshot()
        vms = snapshot['vms'] if snapshot else []
        passes = vms[0]['passes'] if vms else 0
        if time.monotonic() > end:
            raise Failed(f'{passes} passes in 30 s: {vms}')
        rig.must_be_well()
        time.sleep(0.1)
    after = swap_in_use(zram)
    say(f'{before} pages in swap, {after} after {passes} passes')
    if after < before - before // 50:
        raise Failed(f'scanning brought {before - after} pages back from swap')
    guest.check()
    # That reading would have been seen.
    ram.read_file()
    if swap_in_use(zram) > before // 2:
        raise Failed('reading the RAM file brings nothing back: the test is too weak')
    finish(rig)
    ram.close()


def main():
    need_userfaultfd()
    what = sys.argv[1]
    say(f'swap {what}, seed {SEED}')
    zram = Zram()
    try:
        tests = {'storm': storm, 'idle': idle}
        status = run(Rig(seed=SEED), lambda rig: tests[what](rig, zram))
    finally:
        zram.close()
    sys.exit(status)


if __name__ == '__main__':
    main()
