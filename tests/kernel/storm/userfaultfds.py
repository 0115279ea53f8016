#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A userfaultfd of QEMU's own, as for postcopy or a background snapshot: all pages come back
before it is opened, nothing is folded while it is open, and after that the VM is folded again
without an operator.

userfaultfds.py closed|open|restart|incoming|again. Exits 77 where a userfaultfd cannot be driven
from outside."""
import os
import subprocess
import sys
import time

from rig import Failed, Rig, binary, run_named, say, wait
from off import cli

PAGES = 2048
FOLDED = 1900
AGAIN_S = 90  # what waits, waits for ten seconds without a userfaultfd
AGAIN_MIN_S = 8
OPEN_S = 15
ROUNDS = 2
PAUSES_S = (0.2, 1.3, 9.5, 10.5, 11.0)  # around the moment at which the VM is attached anew


class FakeQemu:
    """tests/agent/fake_qemu.c beside a rig's daemon."""

    def __init__(self, rig, *arguments):
        self.rig = rig
        environment = dict(os.environ, LD_PRELOAD=binary('RAMFOLD_AGENT'), RAMFOLD_SETTLE_MS='20',
                           RAMFOLD_AGENT_SOCKET=f'{rig.dir}/agent.sock')
        self.process = subprocess.Popen([binary('RAMFOLD_FAKE_QEMU'), *arguments],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.pid = str(self.process.pid)

    def __enter__(self):
        self.process.stdout.readline()
        self.ask(f'ram 0 {PAGES * 4096}')
        self.ask(f'fill 0 {PAGES}')
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, command):
        """The call's result, which is an error when it is negative."""
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()
        result, error = map(int, self.process.stdout.readline().split())
        if result < 0:
            raise Failed(f'{command}: {result}, {os.strerror(error)}')
        return result

    def view(self):
        answer = self.rig.request('show', 5, vm=self.pid)
        return answer['vm'] if answer and 'vm' in answer else None

    def codes(self):
        return [reason['code'] for reason in wait('an answer', self.view)['reasons']]

    def folded(self):
        view = self.view()
        return view['saved'].get('folded_pages', 0) if view else 0

    def wait_folded(self, what, seconds=AGAIN_S):
        wait(what, lambda: self.folded() >= FOLDED, seconds)

    def all_is_back(self, what):
        if self.folded() != 0:
            raise Failed(f'{what}: {self.folded()} pages are folded')

    def verify(self):
        if (wrong := self.ask(f'verify 0 {PAGES}')) != 0:
            raise Failed(f'{wrong} pages hold other bytes than were written')


def with_guest(body, *arguments):
    rig = Rig(seed=21)
    try:
        rig.start_daemon()
        with FakeQemu(rig, *arguments) as guest:
            body(rig, guest)
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def closed(rig, guest):
    """The capability is set and unset at once: a userfaultfd that is closed as soon as it is
    made."""
    guest.wait_folded('it is folded', 60)
    number = guest.view()['id']
    descriptor = guest.ask('userfaultfd')
    guest.all_is_back('there is a userfaultfd')
    guest.ask(f'close {descriptor}')
    began = time.monotonic()
    if 'other_userfaultfd' not in guest.codes():
        raise Failed(f'it is not told: {guest.codes()}')
    guest.wait_folded('it is folded again by itself')
    if time.monotonic() - began < AGAIN_MIN_S:
        raise Failed('who sets the capability begins a snapshot soon, and is not waited for')
    view = guest.view()
    if view['reasons'] or view['id'] == number:
        raise Failed(f'attached anew? {view["id"]}, {view["reasons"]}')
    guest.verify()
    # And it goes on like that.
    descriptor = guest.ask('userfaultfd')
    guest.all_is_back('there is one again')
    guest.ask(f'close {descriptor}')
    guest.wait_folded('it is folded once more')
    guest.verify()


def still_open(rig, guest):
    """While one is open nothing is folded, however many others were closed."""
    guest.wait_folded('it is folded', 60)
    first = guest.ask('userfaultfd')
    second = guest.ask('userfaultfd')
    guest.ask(f'close {first}')
    number = guest.view()['id']
    until = time.monotonic() + OPEN_S
    while time.monotonic() < until:
        guest.all_is_back('one is still open')
        if guest.view()['id'] != number:
            raise Failed('attached anew beside an open one')
        time.sleep(0.3)
    guest.ask(f'close {second}')
    guest.wait_folded('it is folded again')
    guest.verify()


def restart(rig, guest):
    """What a daemon was told its successor finds out: it does not fold beside an open userfaultfd,
    and folds again when that is closed, whenever that happens."""
    guest.wait_folded('it is folded', 60)
    descriptor = guest.ask('userfaultfd')
    rig.kill_daemon()
    rig.start_daemon()
    wait('it is told', lambda: guest.view() and 'other_userfaultfd' in guest.codes(), 30)
    until = time.monotonic() + OPEN_S
    while time.monotonic() < until:
        guest.all_is_back('the next daemon folds beside it')
        time.sleep(0.3)
    say('the next daemon folds nothing beside it')
    guest.ask(f'close {descriptor}')
    time.sleep(AGAIN_MIN_S / 2)
    rig.kill_daemon()
    rig.start_daemon()
    guest.wait_folded('it is folded again, by the third daemon')
    guest.verify()
    descriptor = guest.ask('userfaultfd')
    rig.kill_daemon()
    guest.ask(f'close {descriptor}')
    rig.start_daemon()
    guest.wait_folded('it was closed while there was no daemon')
    guest.verify()


def incoming(rig, guest):
    """The target of a postcopy: that its migration has ended is said once."""
    wait('the reason', lambda: guest.view() and 'incoming_migration' in guest.codes(), 30)
    descriptor = guest.ask('userfaultfd')
    guest.ask(f'close {descriptor}')
    done = cli(rig, 'attach', guest.pid, '--incoming-finished')
    if done.returncode != 0:
        raise Failed(f'--incoming-finished: {done}')
    guest.wait_folded('it is folded again')
    rig.kill_daemon()
    rig.start_daemon()
    guest.wait_folded('and by the next daemon, which knows it too')
    if 'incoming_migration' in guest.codes():
        raise Failed(f'it was said, and is asked for again: {guest.codes()}')
    guest.verify()


def again(rig, guest):
    """Snapshots at any moment, also while the VM is being attached anew: QEMU's registration of its
    RAM never fails, and the guest reads what it wrote."""
    guest.wait_folded('it is folded', 60)
    taken = 0
    numbers = set()
    for _ in range(ROUNDS):
        for pause in PAUSES_S:
            guest.ask('snapshot 0 20')
            taken += 1
            time.sleep(pause)
            guest.ask('snapshot 0 0')
            taken += 1
            if view := guest.view():
                numbers.add(view['id'])
    guest.wait_folded('it is folded again at the end')
    guest.verify()
    say(f'{taken} snapshots, {len(numbers)} attachments')


if __name__ == '__main__':
    sys.exit(run_named({
        'closed': lambda: with_guest(closed), 'open': lambda: with_guest(still_open),
        'restart': lambda: with_guest(restart), 'again': lambda: with_guest(again),
        'incoming': lambda: with_guest(incoming, '-incoming', 'defer')}))
