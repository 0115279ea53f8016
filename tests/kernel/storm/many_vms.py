#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""1,024 VMs of four users at one daemon with the descriptors of its unit: all are folded and
served, by a few threads, also after the daemon was killed.

many_vms.py; RAMFOLD_LONG=1 kills it more often. Exits 77 where a userfaultfd cannot be driven from
outside."""
import os
import pathlib
import re
import resource
import subprocess
import sys
import threading
import time

from rig import Failed, Rig, binary, need_userfaultfd, run, say, slower

VMS = 1024
USERS = 4  # no user may have more than half of all VMs
PAGES = 16
KILLS = 6 if os.environ.get('RAMFOLD_LONG') else 1
# Idle fault threads, their manager, and the threads that every daemon has; some that look at
# processes come and go.
THREADS_IDLE = 32
SECONDS = 300
FAULT_THREADS_MAX = 64  # kFewMax of src/fault/pool.hpp
THREADS_MAX = 1024  # much less than TasksMax, which is for VMs that hold threads up
LOOK_HELD_MAX = 16  # more for those that only look held; the busier the machine, the more do


def descriptors_of_unit():
    text = (pathlib.Path(__file__).resolve().parents[3] / 'systemd/ramfold.service.in').read_text()
    return int(re.search(r'^LimitNOFILE=(\d+)$', text, re.M)[1])


class Crowd:
    def __init__(self, rig):
        self.process = subprocess.Popen(
            [binary('RAMFOLD_CROWD_GUEST'), f'{rig.dir}/agent.sock', str(VMS), str(USERS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.timer = threading.Timer(2 * SECONDS * slower(), self.process.kill)
        self.timer.daemon = True
        self.timer.start()
        if self.process.stdout.readline() != 'there\n':
            raise Failed('the VMs could not be made')

    def all(self, order):
        began = time.monotonic()
        self.process.stdin.write(order + '\n')
        self.process.stdin.flush()
        good = self.process.stdout.readline().strip()
        if good != str(VMS):
            raise Failed(f'{order}: {good or "none"} of {VMS} VMs')
        say(f'{order}: {VMS} VMs, {time.monotonic() - began:.1f} s')

    def end(self):
        self.timer.cancel()
        self.process.kill()
        self.process.wait()


def thread_names(pid):
    names = []
    for task in pathlib.Path(f'/proc/{pid}/task').iterdir():
        try:
            names.append((task / 'comm').read_text().strip())
        except OSError:
            pass  # it has ended just now
    return names


class Watch:
    """The most threads that the daemon has had: all, and those for faults."""

    def __init__(self, rig):
        self.rig = rig
        self.most = 0
        self.most_faults = 0
        self.beyond = False
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stopping.wait(0.05):
            try:
                names = thread_names(self.rig.daemon.pid)
            except OSError:
                continue
            self.most = max(self.most, len(names))
            faults = sum(bool(re.match(r'rf\d*-fault$', n)) for n in names)
            self.most_faults = max(self.most_faults, faults)
            self.beyond |= faults > FAULT_THREADS_MAX + LOOK_HELD_MAX * slower()

    def end(self):
        self.stopping.set()
        self.thread.join()
        say(f'at most {self.most} threads, {self.most_faults} of them for faults')
        if self.most > THREADS_MAX:
            raise Failed(f'{self.most} threads at a time')
        if self.beyond:
            raise Failed(f'{self.most_faults} threads for faults at a time')


def start_daemon(rig, descriptors):
    rig.start_daemon()
    hard = min(descriptors, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.prlimit(rig.daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    rig.wait(rig.served_by_newest, 120, 'the daemon')


def wait_idle(rig):
    def idle():
        rig.must_be_well()
        return len(thread_names(rig.daemon.pid)) <= THREADS_IDLE
    try:
        rig.wait(idle, 60, 'few threads')
    except Failed:
        names = sorted(thread_names(rig.daemon.pid))
        raise Failed(f'{len(names)} threads when idle: {names}') from None
    say(f'idle with {len(thread_names(rig.daemon.pid))} threads')


def wait_folded(rig):
    def folded():
        snapshot = rig.request('snapshot', 60)
        vms = snapshot['snapshot']['vms'] if snapshot else []
        return len(vms) == VMS and all(
            vm['saved'].get('folded_pages', 0) == PAGES for vm in vms)
    end = time.monotonic() + SECONDS * slower()
    while not folded():
        rig.must_be_well()
        if time.monotonic() > end:
            vms = (rig.request('snapshot', 60) or {'snapshot': {'vms': []}})['snapshot']['vms']
            short = [vm for vm in vms if vm['saved'].get('folded_pages', 0) != PAGES]
            raise Failed(f'{len(vms)} VMs, {len(short)} not folded: '
                         f'{[(vm["state"], vm["saved"], vm["reasons"]) for vm in short[:3]]}')
        time.sleep(1)
    say('all is folded')


def many_vms(rig):
    descriptors = descriptors_of_unit()
    os.chmod(rig.dir, 0o755)  # other users' agents knock
    start_daemon(rig, descriptors)
    crowd = Crowd(rig)
    try:
        watch = Watch(rig)
        crowd.all('attach')
        wait_folded(rig)
        wait_idle(rig)
        crowd.all('check')
        for turn in range(KILLS):
            wait_folded(rig)
            rig.kill_daemon()
            start_daemon(rig, descriptors)
            crowd.all('check')  # nobody is attached anew: all is what the keeper held
            wait_idle(rig)
            crowd.all('attach')
            say(f'turn {turn}: killed, taken over, served')
        wait_folded(rig)
        crowd.all('check')
        watch.end()
        rig.must_be_well()
    finally:
        crowd.end()


def main():
    need_userfaultfd()
    sys.exit(run(Rig(scan_threads=2, daemon='RAMFOLDD'), many_vms))


if __name__ == '__main__':
    main()
