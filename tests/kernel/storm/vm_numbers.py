#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a VM never drops the descriptors of another VM from the keeper, whatever ids the
daemons gave to the VMs: not those of a daemon that had started while the keeper was away, nor
those of a VM that the daemon cannot read.

Exits 77 where a userfaultfd cannot be driven from outside."""
import contextlib
import os
import sys
import time

from rig import Failed, Rig, need_userfaultfd, run, say
from patience import deadline
from storm import SEED, finish, progress_of, start, wait_for_progress

SECONDS = 20
RECORD = 'memfd:ramfold-record'


def attached(rig, guest):
    """By the daemon that runs; others only have a connection."""
    vms = (rig.snapshot() or {'vms': []})['vms']
    return any(vm['name'] == f'qemu-{guest.process.pid}' and vm['state'] != 'connected'
               for vm in vms)


def wait_until(rig, condition, what):
    end = deadline(SECONDS)
    while not condition():
        rig.must_be_well()
        if time.monotonic() > end:
            raise Failed(f'{what}: not within {SECONDS} s')
        time.sleep(0.05)


def come_and_go(rig):
    """A VM comes and ends."""
    guest = rig.add_guest('--pages', '2048')
    wait_until(rig, lambda: attached(rig, guest), 'it is attached')
    guest.process.kill()
    guest.process.wait()
    rig.guests.remove(guest)
    wait_until(rig, lambda: not attached(rig, guest), 'it is let go of')


def without_keeper(rig):
    """A VM comes and ends while the daemon knows nothing of what the keeper holds."""
    rig.kill_keeper()
    rig.kill_daemon()
    rig.start_daemon()
    come_and_go(rig)
    before = progress_of(rig)
    rig.start_keeper()
    wait_for_progress(rig, before, 30)
    rig.wait_folded(200, 60)
    if not rig.restarts:
        raise Failed('no other daemon was needed: this shows nothing')
    say('served again once the keeper was back')


@contextlib.contextmanager
def unreadable_record(rig):
    """Of the only VM that the keeper holds."""
    paths = [f'/proc/{rig.keeper.pid}/fd/{fd}' for fd in os.listdir(f'/proc/{rig.keeper.pid}/fd')]
    path, = [path for path in paths if RECORD in os.readlink(path)]
    with open(path, 'r+b', buffering=0) as record:
        first = record.read(1)
        os.pwrite(record.fileno(), bytes([first[0] ^ 1]), 0)
        yield
        os.pwrite(record.fileno(), first, 0)


def unreadable(rig):
    """A VM comes and ends while the keeper holds one that the daemon cannot read."""
    rig.kill_daemon()
    with unreadable_record(rig):
        rig.start_daemon()
        come_and_go(rig)
        rig.kill_daemon()
    before = progress_of(rig)
    rig.start_daemon()
    wait_for_progress(rig, before, 30)
    rig.wait_folded(200, 60)
    say('served again by a daemon that can read it')


def vm_numbers(rig):
    start(rig, 1, '--pages', '2048')
    without_keeper(rig)
    unreadable(rig)
    rig.guests[0].check()
    finish(rig)


def main():
    need_userfaultfd()
    sys.exit(run(Rig(seed=SEED, managed=True), vm_numbers))


if __name__ == '__main__':
    main()
