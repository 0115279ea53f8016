#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills keeper, daemon and guests in every order, while a service manager holds the keeper's second
copy.

No byte of a living guest may be wrong, no thread may wait for ever, and no process may hold a
descriptor of a dead guest's RAM (HAZARDS L5). RAMFOLD_LONG=1: the long form; RAMFOLD_SEED=n. Exits
77 where a userfaultfd cannot be driven from outside."""
import os
import random
import signal
import sys
import time

from rig import Failed, Rig, binary, need_userfaultfd, run, say
from patience import SANITIZED, deadline, slower
from storm import LONG, SEED, finish, progress_of, start, wait_for_progress

BURIAL_SECONDS = 20
PASS_SECONDS = 7  # more than from one look at all processes to the next
RAM = 'memory-backend-memfd'  # what the storm's guests call theirs


def ram_inodes(pid):
    """Inodes of the RAM files that a process has descriptors of."""
    found = set()
    try:
        for fd in os.listdir(f'/proc/{pid}/fd'):
            path = f'/proc/{pid}/fd/{fd}'
            try:
                if RAM in os.readlink(path):
                    found.add(os.stat(path).st_ino)
            except OSError:
                pass
    except OSError:
        pass
    return found


def holders(rig, inode):
    """Who still has a descriptor of this RAM file."""
    processes = {'keeper': rig.keeper.pid, 'daemon': rig.daemon.pid}
    return [name for name, pid in processes.items() if inode in ram_inodes(pid)]


def wait_buried(rig, inodes):
    end = deadline(BURIAL_SECONDS)
    for inode in inodes:
        while holders(rig, inode):
            rig.must_be_well()
            if time.monotonic() > end:
                raise Failed(f'{holders(rig, inode)} still hold the RAM of a guest that has ended')
            time.sleep(0.05)
    while len(stored := [name for name in rig.manager.names() if '.ram' in name]) > len(rig.guests):
        if time.monotonic() > end:
            raise Failed(f'the service manager still holds {stored}, of {len(rig.guests)} guests')
        time.sleep(0.05)


class Kills:
    """Each leaves keeper and daemon running."""

    def __init__(self, rig, dice):
        self.rig = rig
        self.dice = dice
        self.buried = []  # inodes of dead guests' RAM

    def pause(self, longest):
        time.sleep(self.dice.uniform(0, longest))

    def daemon(self):
        self.rig.kill_daemon()
        self.pause(0.1)
        self.rig.start_daemon()

    def keeper(self):
        """The daemon lives: it hands everything over again."""
        self.rig.kill_keeper()
        self.pause(0.5)
        self.rig.start_keeper()

    def keeper_then_daemon(self):
        """The daemon dies while it has no keeper, or while it hands over to the new one."""
        self.rig.kill_keeper()
        if self.dice.random() < 0.5:
            self.pause(0.3)
            self.rig.kill_daemon()
            self.rig.start_keeper()
        else:
            self.rig.start_keeper()
            self.pause(0.4)
            self.rig.kill_daemon()
        self.pause(0.1)
        self.rig.start_daemon()

    def daemon_then_keeper(self):
        """The keeper dies while nobody else holds anything, or while a daemon takes everything
        back."""
        self.rig.kill_daemon()
        if self.dice.random() < 0.5:
            self.rig.kill_keeper()
            self.rig.start_keeper()
            self.rig.start_daemon()
        else:
            self.rig.start_daemon()
            self.pause(0.05)
            self.rig.kill_keeper()
            self.pause(0.1)
            self.rig.start_keeper()

    def daemon_before_keeper(self):
        """The daemon starts while there is no keeper: it may not take guests for new that it does
        not know."""
        self.rig.kill_keeper()
        self.rig.kill_daemon()
        self.rig.start_daemon()
        self.pause(1)
        self.rig.start_keeper()

    def stopped_keeper(self):
        """The keeper stands still, also while a daemon starts."""
        self.rig.keeper.send_signal(signal.SIGSTOP)
        if self.dice.random() < 0.7:
            self.rig.kill_daemon()
            self.rig.start_daemon()
        self.pause(1)
        self.rig.keeper.send_signal(signal.SIGCONT)

    def guest(self):
        """A guest ends, with all alive, or with one of both away; another one comes."""
        victim = self.dice.choice(self.rig.guests)
        inodes = ram_inodes(victim.process.pid)
        away = self.dice.randrange(3)
        if away == 1:
            self.rig.kill_daemon()
        elif away == 2:
            self.rig.kill_keeper()
        victim.process.kill()
        victim.process.wait()
        self.rig.guests.remove(victim)
        self.rig.add_guest('--pages', '2048')
        self.pause(0.2)
        if away == 1:
            self.rig.start_daemon()
        elif away == 2:
            self.rig.start_keeper()
        self.buried += inodes

    def one(self):
        kills = [self.daemon, self.keeper, self.keeper_then_daemon, self.daemon_then_keeper,
                 self.daemon_before_keeper, self.stopped_keeper, self.guest]
        kill = self.dice.choice(kills)
        kill()
        return kill.__name__


def keeper_out_of_reach(rig):
    """A keeper has everything back, and the daemon cannot reach it: it is no other consumer of RAM,
    for which a guest would be unfolded for good."""
    rig.wait_folded(200, 60)
    rig.kill_keeper()
    command = [binary('RAMFOLD_KEEPER'), '--socket', f'{rig.dir}/elsewhere.sock']
    rig.keeper = rig.manager.start(command, rig.log)
    rig.wait(lambda: all(ram_inodes(guest.process.pid) & ram_inodes(rig.keeper.pid)
                         for guest in rig.guests), 10, "the guests' RAM files")
    time.sleep(PASS_SECONDS * slower())
    rig.kill_keeper()
    rig.start_keeper()
    for vm in rig.snapshot()['vms']:
        if any(r['code'] in ('ram_fd_elsewhere', 'other-consumer') for r in vm['reasons']):
            raise Failed(f'its own keeper is taken for a consumer: {vm["reasons"]}')
    rig.wait_folded(200, 60)


def kill_in_any_order(rig, kills, count, settle, told):
    """How often each kind came. `settle` waits until the guests have something to lose; `told` says
    what they have."""
    seen = {}
    for i in range(count):
        before = progress_of(rig)
        name = kills.one()
        seen[name] = seen.get(name, 0) + 1
        rig.must_be_well()
        if kills.dice.random() < 0.3:
            continue  # the next one comes at once
        wait_for_progress(rig, progress_of(rig) if name == 'guest' else before, 30)
        if kills.dice.random() < 0.5:
            settle()
        now = told()
        if i % 10 == 9:
            say(f'{seen}, {now}')
    wait_for_progress(rig, progress_of(rig), 30)
    wait_buried(rig, kills.buried)
    return seen


def keeper_storm(rig):
    dice = random.Random(SEED)
    start(rig, 2, '--pages', '2048')
    keeper_out_of_reach(rig)
    kills = Kills(rig, dice)

    def told():
        rig.count()
        return rig.counted()

    seen = kill_in_any_order(rig, kills, 200 if LONG else 12 if SANITIZED else 30,
                             lambda: rig.wait_folded(200, 60), told)
    if not kills.buried:
        raise Failed('no guest ended: this shows nothing of L5')
    rig.wait_folded(200, 60)
    rig.count()
    finish(rig)
    if rig.manager.wrong:
        raise Failed(f'the keeper to its service manager: {rig.manager.wrong}')
    say(f'{seen}, {len(kills.buried)} guests buried, '
        f'the daemon ended {rig.restarts} times by itself, {rig.counted()}, no wrong byte')


def main():
    need_userfaultfd()
    say(f'keeper, seed {SEED}')
    sys.exit(run(Rig(seed=SEED, managed=True), keeper_storm))


if __name__ == '__main__':
    main()
