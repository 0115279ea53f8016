#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills the daemon over and over while guests write, read, discard and verify. See docs/design.md,
Truth.

storm.py storm|kill-points|no-t4|in-flight|no-gate; RAMFOLD_LONG=1: the long
forms; RAMFOLD_SEED=n. Exits 77 where a userfaultfd cannot be driven from outside."""
import os
import random
import shutil
import subprocess
import sys
import time

from rig import Failed, Rig, binary, must_lose, need_userfaultfd, run, say
from patience import SANITIZED, deadline, slower

LONG = os.environ.get('RAMFOLD_LONG', '0') == '1'
SEED = int(os.environ.get('RAMFOLD_SEED', '0')) or int(time.time())

# Every place where the order of the steps matters, and after how many visits to die there.
POINTS = [
    'fold.guard:3', 'fold.pread:5', 'fold.encode:4', 'store.write:40', 'store.publish:60',
    'fold.commit:1', 'fold.commit:77', 'fold.word:1', 'fold.word:78', 'fold.punch:1',
    'fold.punch:20', 'fault.looked:25', 'fault.filled:25', 'fault.copied:30', 'fault.run:3',
    'fault.run.word:1', 'fault.run.word:20', 'fault.word:20',
    'fault.lifted:20', 'fault.drop:20', 'store.drop:10',
    'keeper.handover:1', 'recovery.inherited:1', 'recovery.vm:1', 'recovery.vm:2',
    'recovery.count:20', 'recovery.counted:1', 'recovery.store.references:50',
    'recovery.store.index:1',
    'recovery.store.index:100', 'recovery.store.sweep:1',
    'reform.write:5', 'reform.reference:2', 'reform.switch:9', 'reform.free:3',
]


def progress_of(rig):
    return [guest.status() for guest in rig.guests]


def kill_delay(dice):
    """Early deaths hit recovery, later ones hit folding, which begins about half a second after a
    start."""
    shape = dice.random()
    if shape < 0.35:
        return slower() * dice.uniform(0.005, 0.025)
    if shape < 0.6:
        return slower() * dice.uniform(0.025, 0.3)
    return slower() * dice.uniform(0.4, 1.2)


def wait_for_progress(rig, before, seconds=15):
    """Every guest does something again: no thread of it waits for what the dead daemon had read."""
    end = deadline(seconds)
    for guest, then in zip(rig.guests, before):
        while guest.status()['operations'] <= then['operations'] + 100:
            rig.must_be_well()
            if time.monotonic() > end:
                raise Failed(f'guest {guest.number} makes no progress')
            time.sleep(0.05)


def finish(rig):
    """Everything verified, unfolded, and verified again."""
    for guest in rig.guests:
        guest.check()
    answer = rig.request('off', 60)
    if not answer or 'error' in answer:
        raise Failed(f'off: {answer}')
    for guest in rig.guests:
        guest.check()
    rig.must_be_well()
    snapshot = rig.snapshot()
    left = [vm for vm in snapshot['vms'] if vm['state'] != 'connected']
    if left:
        raise Failed(f'still attached after off: {left}')


def run_kills(rig, dice, kills, seconds=None):
    end = time.monotonic() + seconds if seconds else None
    for i in range(kills):
        rig.start_daemon()
        time.sleep(kill_delay(dice))
        rig.count()
        rig.must_be_well()
        rig.kill_daemon()
        if i % 10 == 9:
            say(f'{rig.kills} kills, {rig.counted()}')
        if end and time.monotonic() > end:
            break


def start(rig, guests=2, *arguments):
    for _ in range(guests):
        rig.add_guest(*arguments)
    rig.start_daemon()
    rig.wait_folded(300, 60)
    rig.count()


def storm(rig):
    dice = random.Random(SEED)
    start(rig)
    rig.kill_daemon()
    began = progress_of(rig)
    run_kills(rig, dice, 200 if LONG else 10 if SANITIZED else 25)
    rig.start_daemon()
    wait_for_progress(rig, progress_of(rig))
    rig.wait_folded(300, 60)
    rig.count()
    finish(rig)
    done = progress_of(rig)
    for then, now in zip(began, done):
        say(f'{now["operations"] - then["operations"]} operations, {now["discards"]} discards, '
            f'{now["files"]} file reads, {now["stores"]} stores')
    say(f'{rig.kills} kills, {rig.counted()}, no wrong byte')
    if rig.brought_back < 3000:
        raise Failed('too few: this was no storm')


def die_at(rig, point, seconds):
    """A daemon that dies at the point; False when it never came there."""
    rig.start_daemon(kill_at=point)
    end = deadline(seconds)
    while not rig.daemon_died():
        if time.monotonic() > end:
            rig.kill_daemon()
            return False
        time.sleep(0.02)
        rig.must_be_well()
    rig.must_be_well()
    rig.kills += 1
    return True


def kill_points(rig):
    start(rig)
    missed = []
    for round_number in range(5 if LONG else 1):
        for point in POINTS:
            rig.kill_daemon()
            if point.startswith('keeper'):
                # A new guest's descriptors are being handed over.
                rig.add_guest('--pages', '1024', '--threads', '2')
            before = progress_of(rig)
            if not die_at(rig, point, 20):
                missed.append(point)
            time.sleep(0.05)
            rig.start_daemon()
            wait_for_progress(rig, before)
            for guest in rig.guests:
                guest.check()
            rig.wait_folded(50, 30)
            rig.count()
            rig.must_be_well()
            say(f'{point}: well')
    finish(rig)
    if missed:
        raise Failed(f'never reached: {missed}')
    say(f'{rig.kills} kills at {len(POINTS)} points, {rig.counted()}, no wrong byte')


def no_t4(rig):
    """The daemon that lets a page go before its word says so must be caught within 60 s."""
    dice = random.Random(SEED)
    began = time.monotonic()

    def kills():
        # Few pages: one that a kill left in error is soon discarded and read.
        start(rig, 2, '--pages', '1024')
        rig.kill_daemon()
        while time.monotonic() - began < 60 * slower():
            if dice.random() < 0.8:
                die_at(rig, f'fault.copied:{dice.randrange(1, 40)}', 3)
            else:
                run_kills(rig, dice, 1)
            for guest in rig.guests:
                guest.status()

    must_lose(kills, f'not caught within {60 * slower()} s: the storm is too weak')
    say(f'after {time.monotonic() - began:.1f} s and {rig.kills} kills')


class SlowFile:
    """A FUSE file opened with FOPEN_DIRECT_IO: a read pins its pages for as long as the answer
    takes."""

    def __init__(self, rig, delay_ms):
        self.dir = f'{rig.dir}/fuse'
        os.mkdir(self.dir)
        self.process = subprocess.Popen([binary('RAMFOLD_SLOW_FUSE'), self.dir, str(delay_ms)],
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith('ready'):
            print('slow_fuse:', line.strip() or 'no FUSE here')
            sys.exit(77)
        self.path = f'{self.dir}/slow'

    def close(self):
        subprocess.run(['umount', '-l', self.dir], check=False)
        self.process.kill()
        self.process.wait()


def direct_file(slow):
    """A copy of the slow file where O_DIRECT reaches a disk, beside the build; None where there is
    none."""
    kind = subprocess.run(['stat', '-f', '-c', '%T', '.'], capture_output=True, text=True,
                          check=False).stdout
    if kind.strip() not in ('ext2/ext3', 'xfs', 'btrfs'):
        return None
    path = os.path.abspath(f'storm-direct.{os.getpid()}')
    shutil.copyfile(slow.path, path)
    return path


def run_in_flight(rig, opens, *arguments):
    slow = SlowFile(rig, 250)
    direct = direct_file(slow)
    try:
        for _ in range(2):
            rig.add_guest('--slow-file', slow.path, '--threads', '3', *arguments)
        if direct:
            rig.add_guest('--slow-file', direct, '--slow-direct', '--threads', '3', *arguments)
        rig.start_daemon()
        end = deadline(1500 if LONG else 90)
        while sum(guest.status()['slow'] for guest in rig.guests) < opens:
            rig.must_be_well()
            if time.monotonic() > end:
                raise Failed(f'too few slow reads: {progress_of(rig)}')
            time.sleep(0.2)
        for guest in rig.guests:
            guest.ask('calm', 5)
            guest.check()
        rig.count()
        say(f'{sum(g["slow"] for g in progress_of(rig))} reads in flight, {rig.counted()}')
        # After the last close folding goes on by itself.
        time.sleep(slower())
        rig.wait_state('folding', 5)
        rig.wait_folded(1000, 20)
        finish(rig)
    finally:
        for guest in rig.guests:
            guest.process.kill()
            guest.process.wait()
        if direct:
            os.unlink(direct)
        slow.close()


def in_flight(rig):
    # Opened behind the agent's back: what protects is the kernel's answer alone.
    run_in_flight(rig, 1000 if LONG else 50, '--slow-raw')
    if rig.brought_back < 100:
        raise Failed('between the reads nothing was folded: this proves nothing')
    say('no wrong byte')


def no_gate(rig):
    must_lose(lambda: run_in_flight(rig, 1000, '--slow-raw'),
              'a read in flight into folded pages lost nothing: the test is too weak')


DAEMONS = {'no-t4': 'RAMFOLDD_NO_T4', 'no-gate': 'RAMFOLDD_NO_GATE'}


def main():
    what = sys.argv[1]
    need_userfaultfd()
    say(f'{what}, seed {SEED}')
    # A point in the way up is met by one thread, or its count would be another's.
    many = what == 'storm'
    rig = Rig(seed=SEED, passes=1 + SEED % 2 if many else 1,
              fault_threads=1 + SEED // 2 % 2 if many else 1,
              scan_threads=1 + SEED // 4 % 2 if many else 1,
              daemon=DAEMONS.get(what, 'RAMFOLDD_POINTS'))
    tests = {'storm': storm, 'kill-points': kill_points, 'no-t4': no_t4, 'in-flight': in_flight,
             'no-gate': no_gate}
    sys.exit(run(rig, tests[what]))


if __name__ == '__main__':
    main()
