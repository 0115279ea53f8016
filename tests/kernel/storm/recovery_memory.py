#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A restarted daemon finds no memory for the store's index: it serves faults, reports why nothing
is folded, removes VMs that end, stops when asked to, and folds as soon as there is memory.

Exits 77 where a userfaultfd cannot be driven from outside."""
import os
import sys
import time

from keeper_storm import holders, ram_inodes
from rig import Failed, Rig, binary, need_userfaultfd, run, say
from storm import SEED, finish, progress_of, start, wait_for_progress

CODE = 'not-recovered'
FIRST_PAUSES_SECONDS = 3  # several attempts
BURIAL_SECONDS = 20
STOP_SECONDS = 5  # less than the pause between attempts has grown to by then


def host_codes(rig):
    snapshot = rig.snapshot()
    return [reason['code'] for reason in snapshot['host']['reasons']] if snapshot else []


def said(rig, text):
    with open(f'{rig.dir}/daemon.log', errors='replace') as log:
        return sum(text in line for line in log)


def start_without_memory(rig):
    rig.start_daemon()
    rig.wait(lambda: CODE in host_codes(rig), 20, 'the reason')


def recovery_memory(rig):
    start(rig, 2, '--pages', '2048')
    rig.kill_daemon()
    with open(os.environ['RAMFOLD_MEMORY_DENIED'], 'w'):
        pass
    start_without_memory(rig)
    wait_for_progress(rig, progress_of(rig))
    for guest in rig.guests:
        guest.check()
    time.sleep(FIRST_PAUSES_SECONDS)
    snapshot = rig.snapshot()
    folding = [vm['saved'].get('folded_pages', 0) for vm in snapshot['vms']]
    if snapshot['host']['state'] != 'starting' or CODE not in host_codes(rig):
        raise Failed(f'{snapshot["host"]["state"]}, {host_codes(rig)}')
    say(f'served, with {folding} pages folded; {host_codes(rig)}')

    victim = rig.guests.pop()
    inodes = ram_inodes(victim.process.pid)
    victim.process.kill()
    victim.process.wait()
    if len(inodes) != 1:
        raise Failed('the guest has no RAM file: this shows nothing')
    rig.wait(lambda: not any(holders(rig, inode) for inode in inodes), BURIAL_SECONDS,
             'the RAM of a guest that has ended is let go of')

    if said(rig, 'trying again') != 1:
        raise Failed(f'said {said(rig, "trying again")} times that it tries again')
    began = time.monotonic()
    code = rig.stop_daemon(STOP_SECONDS)
    if code != 0:
        raise Failed(f'stopped with {code}: {rig.log_tail()}')
    say(f'stopped within {time.monotonic() - began:.1f} s')

    start_without_memory(rig)
    time.sleep(FIRST_PAUSES_SECONDS)
    os.unlink(os.environ['RAMFOLD_MEMORY_DENIED'])
    rig.wait_folded(200, 60)
    if CODE in host_codes(rig) or said(rig, 'attempts') != 1:
        raise Failed(f'{host_codes(rig)}; {rig.log_tail()}')
    finish(rig)
    say('recovered, folding, no wrong byte')


def main():
    need_userfaultfd()
    rig = Rig(seed=SEED, daemon='RAMFOLDD')
    rig.preloads = [binary('RAMFOLD_DENIES_MEMORY')]
    os.environ['RAMFOLD_MEMORY_DENIED'] = f'{rig.dir}/no-memory'
    sys.exit(run(rig, recovery_memory))


if __name__ == '__main__':
    main()
