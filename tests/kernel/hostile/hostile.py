#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A hostile agent at a real daemon, beside guests that are not: those are served, folded and
attached all the while, and the daemon can be stopped and started.

hostile.py fenced|fuse|flood|asking|hello|held|killed|crowd|closing. Exits 77 where a userfaultfd
cannot be driven from outside."""
import concurrent.futures
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'storm'))
from rig import (Failed, Rig, binary, need_userfaultfd, run,  # noqa: E402
                 say)
from patience import SANITIZED, deadline, slower  # noqa: E402

FOLDED_MIN = 300
ATTACH_S = 20
# Of one operation; a thread that is held up waits for ever.
SLOWEST_US = 5_000_000
SNAPSHOT_S = 3
# Threads for calls that a process holds up, while one VM does so: one at its facts, some that walk
# over all processes, and such that end at once. It asks for 400 looks.
APART_MAX = 16
CLOSING_MAX = 16  # kClosingOfSenderMax of src/daemon/threads/apart.hpp
OTHER_USER = 65534
GUEST = ('--pages', '1024', '--threads', '2')


class Attacker:
    """A hostile_agent in a session of its own, with what it mounts below the rig's directory."""

    def __init__(self, rig, what, user=None):
        self.what = what
        path = os.path.join(rig.dir, 'agent.sock')
        self.process = subprocess.Popen([binary('RAMFOLD_HOSTILE_AGENT'), path, what],
                                        stdout=subprocess.PIPE, text=True, user=user,
                                        start_new_session=True,
                                        env=dict(os.environ, TMPDIR=rig.dir))
        self.lines = queue.Queue()
        rig.attackers.append(self)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def until_done(self, seconds):
        """All lines up to `done`."""
        lines = []
        end = deadline(seconds)
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f'{self.what}: not done within {seconds} s: {lines}')
            if line is None or line.startswith('cannot'):
                raise Failed(f'{self.what}: {lines} {line}')
            if line == 'done':
                return lines
            lines.append(line)

    def end(self):
        """All its processes, the server of its file system among them, which ends what waits for
        that."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20 * slower())


def unmount_below(directory):
    with open('/proc/self/mounts') as mounts:
        paths = [line.split()[1] for line in mounts]
    for path in paths:
        if path.startswith(directory + '/'):
            subprocess.run(['umount', '--lazy', path], check=False)


def start(rig):
    os.chmod(rig.dir, 0o755)  # another user's agents knock too
    rig.start_daemon()
    honest = rig.add_guest(*GUEST)
    wait_folds(rig, honest)
    return honest


def view_of(rig, guest):
    began = time.monotonic()
    snapshot = rig.snapshot()
    if time.monotonic() - began > SNAPSHOT_S * slower():
        raise Failed(f'a snapshot took {time.monotonic() - began:.1f} s')
    for vm in (snapshot or {'vms': []})['vms']:
        if vm['pid'] == guest.process.pid:
            return vm
    return None


def wait_folds(rig, guest, seconds=ATTACH_S):
    """It is attached, and so much of it is folded."""
    end = deadline(seconds)
    while True:
        view = view_of(rig, guest)
        if view and view['saved'].get('folded_pages', 0) >= FOLDED_MIN:
            return
        if time.monotonic() > end:
            raise Failed(f'guest {guest.number} is not folded: '
                         f'{view and (view["state"], view["reasons"])}')
        rig.must_be_well()
        time.sleep(0.1)


def wait_served(guest, seconds=0):
    """It does something again, and for so long at least. The slowest operation meanwhile, in us."""
    began = guest.status()['operations']
    slowest_us = 0
    least = time.monotonic() + seconds
    end = deadline(20)
    while True:
        status = guest.status()  # of the operations since the last one
        slowest_us = max(slowest_us, status['slowest_us'])
        if status['operations'] >= began + 100 and time.monotonic() > least:
            return slowest_us
        if time.monotonic() > end:
            raise Failed(f'guest {guest.number} is not served: {began} then {status}')
        time.sleep(0.05)


def all_is_well(rig, honest):
    """The honest guest is served; another comes, is attached and folded, and both hold what they
    should."""
    slowest_us = wait_served(honest, 2)
    if slowest_us > SLOWEST_US * slower():
        raise Failed(f'guest {honest.number} is served too late: {slowest_us} us')
    newcomer = rig.add_guest(*GUEST)
    wait_folds(rig, newcomer)
    for guest in (honest, newcomer):
        guest.check()
    rig.must_be_well()
    rig.guests.remove(newcomer)
    newcomer.process.kill()
    newcomer.process.wait()


def restart(rig, honest):
    """An orderly one; what is held up does not keep the old daemon from its end."""
    code = rig.stop_daemon()
    if code != 0:
        raise Failed(f'the daemon ended with {code}: {rig.log_tail()}')
    rig.start_daemon()
    wait_folds(rig, honest)
    honest.check()


def children_of(pid):
    return [int(child) for child in
            pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def wait_gone(pids, seconds=10):
    end = deadline(seconds)
    while any(os.path.exists(f'/proc/{pid}') for pid in pids):
        if time.monotonic() > end:
            raise Failed(f'still there: {[pid for pid in pids if os.path.exists(f"/proc/{pid}")]}')
        time.sleep(0.1)


def descriptors_of(rig):
    return len(os.listdir(f'/proc/{rig.daemon.pid}/fd'))


def log_of(rig):
    return pathlib.Path(rig.dir, 'daemon.log').read_text(errors='replace')


def held_children(rig):
    """Of the daemon, every thread of which may have made them."""
    return [child for task in os.listdir(f'/proc/{rig.daemon.pid}/task')
            for child in map(int, pathlib.Path(
                f'/proc/{rig.daemon.pid}/task/{task}/children').read_text().split())]


def wait_released(rig, held, descriptors, seconds=10):
    """The children have ended and the sockets that waited are closed."""
    wait_gone(held, seconds)
    end = deadline(seconds)
    while descriptors_of(rig) > descriptors:
        if time.monotonic() > end:
            raise Failed(f'{descriptors_of(rig)} descriptors, {descriptors} before')
        time.sleep(0.1)


def fuse(rig):
    honest = start(rig)
    for what in ('fuse', 'fuse-dirty'):
        descriptors = descriptors_of(rig)
        # What is in the queues must be dirty before it is dropped.
        stopped = what == 'fuse-dirty'
        if stopped:
            rig.daemon.send_signal(signal.SIGSTOP)
        attacker = Attacker(rig, what)
        said = attacker.until_done(30)
        if stopped:
            rig.daemon.send_signal(signal.SIGCONT)
        say(f'{what}: {said}')
        if 'attached' in said or not said or any(line.startswith('answer') for line in said):
            raise Failed(f'{what} was not refused: {said}')
        all_is_well(rig, honest)
        held = held_children(rig)
        if not held:
            raise Failed(f'{what} held nobody: this proves nothing')
        if what == 'fuse':
            if 'not received any more' not in log_of(rig):
                raise Failed(f'the bound on held children was not met: {said}')
            restart(rig, honest)
            attacker.end()
            wait_gone(held)
        else:
            attacker.end()
            wait_released(rig, held, descriptors)
        say(f'{what}: {len(held)} children had been held, and are gone')
        all_is_well(rig, honest)


def flood(rig):
    honest = start(rig)
    before = rss_kib(rig)
    attacker = Attacker(rig, 'flood')
    say(f'flood: {attacker.until_done(60)}')
    all_is_well(rig, honest)
    after = rss_kib(rig)
    lines = log_of(rig).count('\n')
    say(f'the daemon grew by {after - before} KiB and wrote {lines} lines')
    # A sanitizer keeps what was freed, 256 MiB of it, to catch late users.
    if after - before > (320 if SANITIZED else 32) << 10 or lines > 200:
        raise Failed('an agent that never stops talking costs too much')
    attacker.end()


def rss_kib(rig):
    with open(f'/proc/{rig.daemon.pid}/status') as f:
        return next(int(line.split()[1]) for line in f if line.startswith('VmRSS:'))


def must_hold(attackers):
    for attacker in attackers:
        if not attacker.lines.empty():
            raise Failed(f'{attacker.what}: {attacker.lines.get()}: this proves nothing')


def hello(rig):
    """Processes that cannot be looked at say hello: as many of one user as are looked at together,
    and more."""
    honest = start(rig)
    attackers = [Attacker(rig, 'map-at-hello') for _ in range(3)]
    for attacker in attackers:
        say(f'{attacker.what}: {attacker.until_done(30)}')
    all_is_well(rig, honest)
    must_hold(attackers)
    if 'does not let itself be looked at' not in log_of(rig):
        raise Failed('nobody was held: this proves nothing')
    restart(rig, honest)
    must_hold(attackers)
    for attacker in attackers:
        attacker.end()
    all_is_well(rig, honest)


def restart_beside(rig, honest):
    """The old daemon may have a thread that nothing ends: the next one does not wait for its
    end."""
    old = rig.daemon
    old.terminate()
    end = deadline(30)
    while True:
        rig.start_daemon()
        give_up = deadline(10)
        # The old one may still be there to answer.
        while (rig.daemon.poll() is None and not rig.served_by_newest()
               and time.monotonic() < give_up):
            time.sleep(0.05)
        if rig.daemon.poll() is None and rig.served_by_newest():
            break
        rig.kill_daemon()
        if time.monotonic() > end:
            raise Failed(f'no daemon after the old one was stopped: {rig.log_tail()}')
        time.sleep(0.2)
    honest.check()
    return old


def unusable_vms(rig):
    """How many VMs the daemon tells that it cannot serve yet."""
    notices = rig.snapshot()['host']['notices']
    return [notice['code'] for notice in notices].count('unusable-vm')


def wait_unusable(rig, count):
    """It answers before it has judged for the first time."""
    end = deadline(10)
    while (unusable := unusable_vms(rig)) != count:
        if time.monotonic() > end:
            raise Failed(f'not {count} VMs are left alone, but {unusable}')
        time.sleep(0.05)


def held(rig):
    """VMs that are attached hold their mmap_lock and their RAM file's lock."""
    honest = start(rig)
    attackers = []
    for what in ('map-attached', 'file-attached'):
        attackers.append(Attacker(rig, what))
        try:
            said = attackers[-1].until_done(30)
        except Failed as e:
            raise Failed(f'{e}: {[(vm["state"], vm["reasons"]) for vm in rig.snapshot()["vms"]]}')
        say(f'{what}: {said}')
        if 'attached' not in said:
            raise Failed(f'{what} was not attached')
    all_is_well(rig, honest)
    with concurrent.futures.ThreadPoolExecutor() as requests:
        detached = [requests.submit(rig.request, 'detach', 40, vm=str(a.process.pid))
                    for a in attackers]
        all_is_well(rig, honest)
        for attacker, answer in zip(attackers, detached):
            say(f'detach {attacker.what}: {answer.result()}')
            if 'holds the daemon up' not in str(answer.result()):
                raise Failed(f'{attacker.what} was detached, or nobody said why not')
    must_hold(attackers)
    old = restart_beside(rig, honest)
    # Neither is served beside the thread of the old daemon, and what they name is not known.
    wait_unusable(rig, len(attackers))
    must_hold(attackers)
    # A process that does not let itself be looked at stops the folding of its user's VMs, and all
    # of these are root's. So the first one ends.
    first, second = attackers
    first.end()
    wait_unusable(rig, 1)
    all_is_well(rig, honest)
    must_hold([second])
    wait_unusable(rig, 1)
    second.end()
    if old.wait(20 * slower()) != 0:
        raise Failed(f'the old daemon ended with {old.returncode}')
    all_is_well(rig, honest)


def threads_of(pid):
    """Names and states."""
    states = []
    for task in pathlib.Path(f'/proc/{pid}/task').iterdir():
        name, _, rest = (task / 'stat').read_text().partition('(')[2].rpartition(')')
        states.append((name, rest.split()[0]))
    return states


def holders(threads):
    """The VMs of which a thread waits in the kernel: how the names of their threads begin."""
    return {name.partition('-')[0] for name, state in threads
            if state == 'D' and name[2:].partition('-')[0].isdigit()}


def apart_of(rig):
    """The states of the daemon's threads that may be held up."""
    apart = [state for name, state in threads_of(rig.daemon.pid) if name == 'rf-apart']
    say(f'threads apart: {apart}')
    return apart


def unreadable(rig):
    """The VMs whose processes do not let themselves be looked at, as `holders` names them."""
    return {f'rf{vm["id"]}' for vm in rig.snapshot()['vms']
            if 'unreadable' in [reason['code'] for reason in vm['reasons']]}


def let_go(attackers):
    """What serves their file systems ends, so they hold their locks no longer."""
    for attacker in attackers:
        for child in children_of(attacker.process.pid):
            os.kill(child, signal.SIGKILL)
    for attacker in attackers:
        said = [attacker.lines.get(timeout=30 * slower()) for _ in range(2)]
        say(f'{attacker.what}: {said}')
        if said[1] != 'every byte is right':
            raise Failed(f'{attacker.what}: {said}')


def wait_logged(rig, text, seconds=30):
    end = deadline(seconds)
    while text not in log_of(rig):
        if time.monotonic() > end:
            raise Failed(f'not in the log: {text}: {rig.log_tail()}')
        time.sleep(0.1)


def asking(rig):
    """A VM that is attached holds its mmap_lock, and its agent asks again and again to be looked
    at: the daemon has one thread there. The log says once why the VM is not folded, and once that
    it may be folded again."""
    honest = start(rig)
    attacker = Attacker(rig, 'asking')
    said = attacker.until_done(60)
    say(f'asking: {said}')
    apart = apart_of(rig)
    if 'attached' not in said or 'D' not in apart:
        raise Failed('no look is held up: this proves nothing')
    if len(apart) > APART_MAX:
        raise Failed(f'each request takes a thread: {len(apart)}')
    observed = f'(pid {attacker.process.pid}): it is only observed: '
    wait_logged(rig, observed)
    all_is_well(rig, honest)
    must_hold([attacker])
    lines = [line for line in log_of(rig).splitlines() if observed in line]
    if len(lines) != 1 or 'does not let itself be looked at' not in lines[0]:
        raise Failed(f'in the log: {lines}')
    let_go([attacker])
    wait_logged(rig, f'(pid {attacker.process.pid}): it may be folded again', 60)
    all_is_well(rig, honest)
    attacker.end()


def succeed(rig, honest):
    """A daemon is killed, and does not end; the next one is started, and meanwhile a guest, whose
    agent connects to what is left of the first. The old one, and that guest."""
    old = rig.daemon
    old.kill()
    between = rig.add_guest(*GUEST)
    time.sleep(1)
    rig.start_daemon()
    end = deadline(30)
    while not rig.served_by_newest():
        if rig.daemon.poll() is not None or time.monotonic() > end:
            raise Failed(f'no daemon beside the one that was killed: {rig.log_tail()}')
        time.sleep(0.05)
    wait_served(honest)
    honest.check()
    return old, between


def wait_attached(rig, guest, seconds=20):
    """Its agent speaks to this daemon; one that waits looks for a successor every 10 s."""
    end = deadline(seconds)
    while True:
        view = view_of(rig, guest)
        if view and 'agent-silent' not in [reason['code'] for reason in view['reasons']]:
            return
        if time.monotonic() > end:
            raise Failed(f'the agent of guest {guest.number} did not come: {view}')
        time.sleep(0.1)


def killed(rig):
    """VMs hold threads of a daemon that is killed: the next one goes on beside what is left of
    it, and takes them over when they let go."""
    honest = start(rig)
    attackers = [Attacker(rig, what) for what in ('map-attached', 'file-attached')]
    for attacker in attackers:
        if 'attached' not in attacker.until_done(30):
            raise Failed(f'{attacker.what} was not attached')
    looked_at = Attacker(rig, 'map-at-hello')
    looked_at.until_done(30)
    pids = [attacker.process.pid for attacker in attackers]
    hostile = {f'rf{vm["id"]}' for vm in rig.snapshot()['vms'] if vm['pid'] in pids}
    # Where a look meets the first one's lock before a thread that folds does, only the look is
    # held, and nothing of that VM is folded any more.
    rig.wait(lambda: hostile <= holders(threads_of(rig.daemon.pid)) | unreadable(rig), 20,
             'a held thread of each hostile VM')
    waiting = []
    unusable = set()
    for _ in range(2):
        old, between = succeed(rig, honest)
        remains = threads_of(old.pid) if old.poll() is None else []
        say(f'left of the killed one: {remains}')
        # A call that SIGKILL ends, as a look at the pages of the first, holds nobody up.
        unusable |= holders(remains)
        if not unusable:
            raise Failed('no call on guest RAM outlived the killed daemon: this proves nothing')
        wait_attached(rig, honest)
        say(f'left alone: {unusable}')
        wait_unusable(rig, len(unusable))
        must_hold(attackers)
        waiting.append(old)
        for newcomer in (between, rig.add_guest(*GUEST)):
            wait_attached(rig, newcomer)
            newcomer.check()
    let_go(attackers)
    for old in waiting:
        if old.wait(20 * slower()) != -signal.SIGKILL:
            raise Failed(f'the killed daemon ended with {old.returncode}')
    for guest in rig.guests:
        wait_folds(rig, guest)
    all_is_well(rig, honest)
    for attacker in (*attackers, looked_at):
        attacker.end()
    all_is_well(rig, honest)


def crowd(rig):
    honest = start(rig)
    attacker = Attacker(rig, 'crowd', user=OTHER_USER)
    attacker.until_done(60)
    all_is_well(rig, honest)
    log = log_of(rig)
    if 'too many connections' not in log:
        raise Failed('no bound was met')
    if log.count('\n') > 200:
        raise Failed(f'a crowd writes {log.count(chr(10))} lines into the log')
    attacker.end()
    all_is_well(rig, honest)


def closing(rig):
    """Descriptors that cannot be closed hold a bounded number of threads. Those of that user are
    not received any more, until the earlier ones are closed."""
    honest = start(rig)
    descriptors = descriptors_of(rig)
    attacker = Attacker(rig, 'closing')
    said = attacker.until_done(60)
    say(f'closing: {said}')
    apart = apart_of(rig)
    if apart.count('D') < CLOSING_MAX:
        raise Failed('not enough of them are held up: this proves nothing')
    if len(apart) > CLOSING_MAX + APART_MAX:
        raise Failed(f'each descriptor takes a thread: {len(apart)}')
    if not any('not received any more: earlier ones cannot be closed' in line for line in said):
        raise Failed(f'nobody said that no more are received: {said}')
    if 'with a message that is no offer' not in said[-1]:
        raise Failed(f'descriptors were received that nobody had asked for: {said}')
    all_is_well(rig, honest)
    held = held_children(rig)
    attacker.end()
    wait_released(rig, held, descriptors)
    again = Attacker(rig, 'map-attached')  # of the same user
    if 'attached' not in again.until_done(30):
        raise Failed('nothing is received from that user afterwards')
    again.end()

    attacker = Attacker(rig, 'closing')
    attacker.until_done(60)
    old = restart_beside(rig, honest)
    all_is_well(rig, honest)
    attacker.end()
    if old.wait(20 * slower()) != 0:
        raise Failed(f'the old daemon ended with {old.returncode}')


def fenced(rig):
    """A fence follows READY, also of the next daemon; answers to nothing do no harm."""
    honest = start(rig)
    for _ in range(2):
        attacker = Attacker(rig, 'fenced')
        said = attacker.until_done(30)
        say(f'fenced: {said}')
        if said != ['attached', 'fence', 'folded']:
            raise Failed(f'fenced: {said}')
        all_is_well(rig, honest)
        attacker.end()
        restart(rig, honest)


BODIES = {'fenced': fenced, 'fuse': fuse, 'flood': flood, 'asking': asking, 'hello': hello,
          'held': held, 'killed': killed, 'crowd': crowd, 'closing': closing}
NEED_FUSE = ('fuse', 'asking', 'hello', 'held', 'killed', 'closing')


def main():
    what = sys.argv[1]
    need_userfaultfd()
    if what in NEED_FUSE and not os.path.exists('/dev/fuse'):
        print('needs /dev/fuse')
        sys.exit(77)
    rig = Rig(seed=int(time.time()), daemon='RAMFOLDD')
    rig.attackers = []

    def body(it):
        try:
            BODIES[what](it)
        finally:
            for attacker in it.attackers:
                attacker.end()
            unmount_below(it.dir)
    sys.exit(run(rig, body))


if __name__ == '__main__':
    main()
