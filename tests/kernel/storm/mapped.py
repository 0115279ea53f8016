#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills the daemon over and over while its guests' pages map the pool, are written, discarded and
put back. Afterwards the daemon and the kernel agree on which pages map the pool, and everything
comes back when fold.map is switched off. The guests run as another user: root gets no pool.

mapped.py kills|points|switch|keeper; RAMFOLD_LONG=1: the long forms; RAMFOLD_SEED=n."""
import os
import random
import sys
import time

from keeper_storm import Kills, kill_in_any_order
from rig import Failed, Rig, need_userfaultfd, run, say, wait
from patience import SANITIZED
from storm import die_at, finish, kill_delay, progress_of, wait_for_progress

LONG = os.environ.get('RAMFOLD_LONG', '0') == '1'
SEED = int(os.environ.get('RAMFOLD_SEED', '0')) or int(time.time())
USER = 65534  # nobody

# Each step of a pool's and of a mapping's life, and after how many visits to die there. switch()
# dies where a pool is kept: this happens once in the life of a group.
POINTS = [
    'map.pool:1', 'map.pool:2', 'store.pool.filled:1', 'store.pool.switch:3',
    'map.equal:2', 'map.sent:1', 'map.sent:7', 'map.answered:1', 'map.answered:9',
    'recovery.mapping:1', 'recovery.mapping:5', 'recovery.mappings:1', 'recovery.mappings:2',
    'recovery.store.pool:1', 'store.pool.punch:1',
]


def mapped_by_daemon(snapshot):
    return snapshot['host']['counters']['store_pool_mappings']


def mapped_by_kernel(rig):
    """Pages of the guests whose addresses map a pool, as the kernel says."""
    pages = 0
    for guest in rig.guests:
        with open(f'/proc/{guest.process.pid}/maps') as f:
            for line in f:
                if '/memfd:ramfold-pool' not in line:
                    continue
                begin, end = (int(part, 16) for part in line.split()[0].split('-'))
                pages += (end - begin) // 4096
    return pages


def counter(rig, name):
    """The sum over the guests; 0 while no daemon answers."""
    snapshot = rig.snapshot()
    return sum(vm['counters'][name] for vm in snapshot['vms']) if snapshot else 0


def start(rig):
    for _ in range(2):
        rig.add_guest('--pages', '2048', '--threads', '4')
    rig.start_daemon()
    wait_mapped(rig)


def wait_mapped(rig, pages=50, seconds=90):
    def enough():
        rig.must_be_well()
        return mapped_by_kernel(rig) >= pages
    try:
        wait(f'{pages} mapped pages', enough, seconds)
    except Failed:
        snapshot = rig.snapshot() or {'vms': []}
        raise Failed(f'{mapped_by_kernel(rig)} pages are mapped: '
                     f'{[(vm["state"], vm["reasons"], vm["notices"]) for vm in snapshot["vms"]]}')


def set_map(rig, value):
    answer = rig.request('policy-set', assignments=[f'fold.map={value}'])
    if not answer or 'error' in answer:
        raise Failed(f'fold.map={value}: {answer}')


def all_back(rig):
    """Without fold.map everything goes back, and daemon and kernel agree on that."""
    set_map(rig, 'false')

    def none():
        rig.must_be_well()
        snapshot = rig.snapshot()
        return (snapshot and mapped_by_kernel(rig) == 0 and mapped_by_daemon(snapshot) == 0)
    try:
        wait('everything is put back', none, 60)
    except Failed:
        snapshot = rig.snapshot()
        raise Failed(f'{mapped_by_kernel(rig)} pages are still mapped, the daemon knows of '
                     f'{mapped_by_daemon(snapshot)}: '
                     f'{[(vm["state"], vm["reasons"], vm["notices"]) for vm in snapshot["vms"]]}')
    snapshot = rig.snapshot()
    if snapshot['host']['counters']['store_references_miscounted']:
        raise Failed('the store has met references or mappings that it does not know')
    for guest in rig.guests:
        guest.check()


def agree(rig):
    """While the guests rest and nothing is mapped or put back, both say the same."""
    for guest in rig.guests:
        guest.ask('rest', 20)

    def same():
        rig.must_be_well()
        snapshot = rig.snapshot()
        return snapshot and mapped_by_daemon(snapshot) == mapped_by_kernel(rig)
    try:
        wait('daemon and kernel agree', same, 30)
    except Failed:
        raise Failed(f'the kernel maps {mapped_by_kernel(rig)} pages, the daemon counts '
                     f'{mapped_by_daemon(rig.snapshot())}')
    for guest in rig.guests:
        guest.check()


def kills(rig):
    dice = random.Random(SEED)
    start(rig)
    most = 0
    for i in range(150 if LONG else 10 if SANITIZED else 25):
        rig.kill_daemon()
        before = progress_of(rig)
        rig.start_daemon()
        time.sleep(kill_delay(dice))
        most = max(most, mapped_by_kernel(rig))
        rig.must_be_well()
        if i % 10 == 9:
            wait_for_progress(rig, before)
            say(f'{rig.kills} kills, up to {most} pages mapped')
    wait_for_progress(rig, progress_of(rig))
    wait('a page is mapped, and one put back',
         lambda: counter(rig, 'maps') and counter(rig, 'restores'), 90)
    agree(rig)
    maps, restores = counter(rig, 'maps'), counter(rig, 'restores')
    all_back(rig)
    finish(rig)
    say(f'{rig.kills} kills, up to {most} pages mapped; the last daemon mapped {maps} and put '
        f'{restores} back; no wrong byte')


def points(rig):
    start(rig)
    missed = []
    for point in POINTS:
        rig.kill_daemon()
        before = progress_of(rig)
        if not die_at(rig, point, 25):
            missed.append(point)
        rig.start_daemon()
        wait_for_progress(rig, before)
        wait_mapped(rig, 20)
        for guest in rig.guests:
            guest.check()
        agree(rig)
        say(f'{point}: well')
    all_back(rig)
    finish(rig)
    if missed:
        raise Failed(f'never reached: {missed}')
    say(f'{rig.kills} kills at {len(POINTS)} points, no wrong byte')


def switch(rig):
    """The first daemon dies before a page maps the pool; then the switch, and a guest's end."""
    for _ in range(2):
        rig.add_guest('--pages', '2048', '--threads', '4')
    for point in 'keeper.pool:1', 'map.pool:1', 'map.sent:1':
        if not die_at(rig, point, 60):
            raise Failed(f'{point} was not reached')
        say(f'died at {point}')
    rig.start_daemon()
    wait_mapped(rig)
    agree(rig)
    say(f'{mapped_by_kernel(rig)} pages are mapped, and are put back')
    all_back(rig)
    set_map(rig, 'true')
    wait_mapped(rig)
    say(f'{mapped_by_kernel(rig)} pages are mapped again, and a guest ends')
    guest = rig.guests.pop()
    guest.process.kill()
    guest.process.wait()
    wait('the dead guest is gone', lambda: len((rig.snapshot() or {'vms': [1, 2]})['vms']) == 1, 60)
    agree(rig)
    all_back(rig)
    finish(rig)


def keeper(rig):
    """Kills keeper, daemon and guests in every order. A service manager has the pools, too."""
    dice = random.Random(SEED)
    start(rig)
    kinds = Kills(rig, dice)
    seen = kill_in_any_order(rig, kinds, 120 if LONG else 10 if SANITIZED else 20,
                             lambda: wait_mapped(rig),
                             lambda: f'{mapped_by_kernel(rig)} pages mapped')

    def maps_anew():
        rig.must_be_well()  # a daemon that has met another keeper may have ended, and starts again
        return counter(rig, 'maps')
    wait('a page is mapped', maps_anew, 90)
    agree(rig)
    all_back(rig)
    finish(rig)
    if left := [name for name in rig.manager.names() if 'pool' in name]:
        raise Failed(f'after off the service manager still holds {left}')
    if rig.manager.wrong:
        raise Failed(f'the keeper to its service manager: {rig.manager.wrong}')
    say(f'{seen}, {len(kinds.buried)} guests buried, no wrong byte')


TESTS = {'kills': kills, 'points': points, 'switch': switch, 'keeper': keeper}

if __name__ == '__main__':
    need_userfaultfd()
    say(f'seed {SEED}')
    sys.exit(run(Rig(seed=SEED, guest_user=USER, fold='map = true',
                     managed=sys.argv[1] == 'keeper'), TESTS[sys.argv[1]]))
