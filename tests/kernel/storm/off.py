#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""`off` and `detach`: what `off` leaves behind, when it is refused, and which steps are tried
again; and what a VM leaves behind when it ends.

off.py off|refused|full-cgroup|consumer|incoming|ended. Exits 77 where a userfaultfd cannot be
driven from outside."""
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import time

from rig import Failed, Rig, binary, run_named, say, wait
from patience import slower

MIB = 1 << 20
FOLDED = 300

# A guest that does nothing by itself: RAM whose pages all differ, and its sum when asked for it.
QUIET_GUEST = '''
import fcntl, hashlib, mmap, os, struct, sys
size = int(sys.argv[1]) << 20
fd = os.memfd_create("memory-backend-memfd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
os.ftruncate(fd, size)
fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
ram = mmap.mmap(fd, size)
for page in range(size // 4096):
    ram[page * 4096:page * 4096 + 4096] = struct.pack("<Q", page) * 512
print("ram", fd, hashlib.sha256(ram).hexdigest(), flush=True)
for line in sys.stdin:
    verb, *mib = line.split()
    if verb == "add":  # as QEMU does for `object_add memory-backend-memfd` and `device_add pc-dimm`
        more = os.memfd_create("memory-backend-memfd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(more, int(mib[0]) << 20)
        added = mmap.mmap(more, int(mib[0]) << 20)
        print("added", flush=True)
        continue
    print(hashlib.sha256(ram).hexdigest(), flush=True)
'''


class Manager:
    """The part of systemd that keeps descriptors (sd_notify(3)): names of what it was given and not
    told to drop."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.held = set()
        self.most = 0

    def bind(self, directory):
        self.socket.bind(f'{directory}/notify')
        return f'{directory}/notify'

    def names(self):
        while True:
            try:
                text, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
            except BlockingIOError:
                return self.held
            for fd in fds:
                os.close(fd)
            fields = dict(line.split('=', 1) for line in text.decode().splitlines() if '=' in line)
            if 'FDSTOREREMOVE' in fields:
                self.held.discard(fields['FDNAME'])
            elif 'FDSTORE' in fields:
                self.held.add(fields['FDNAME'])
            self.most = max(self.most, len(self.held))


def memory_files_of(pid):
    """Memory files that a process holds open or has mapped."""
    links = [os.readlink(f'/proc/{pid}/fd/{fd}') for fd in os.listdir(f'/proc/{pid}/fd')]
    with open(f'/proc/{pid}/maps', encoding='ascii', errors='replace') as maps:
        links += [line.split(None, 5)[5] for line in maps if '/memfd:' in line]
    return [link for link in links if 'memfd:' in link]


def is_off(rig, manager):
    host = rig.snapshot()['host']
    if host['promise']['needed_if_all_back_bytes'] != 0:
        raise Failed(f'the promise is stale: {host["promise"]}')
    if (host['state'] != 'off' or host['keeper']['state'] != 'connected'
            or host['keeper']['descriptors'] != 0):
        raise Failed(f'not off: {host["state"]}, {host["keeper"]}, {host["reasons"]}')
    if host['spent']['arena_allocated_bytes'] != 0:
        raise Failed(f'stored pages stay in memory: {host["spent"]}')
    # The keeper closes what it has dropped a moment later, and tells its manager.
    wait('the keeper holds nothing', lambda: not memory_files_of(rig.keeper.pid), 5)
    wait('its service manager holds nothing', lambda: not manager.names(), 5)
    for _ in range(4):  # and nobody hands anything over again
        time.sleep(0.3)
        if memory_files_of(rig.keeper.pid) or manager.names():
            raise Failed('kept again while off: '
                         f'{memory_files_of(rig.keeper.pid)} {manager.names()}')


def must_succeed(what, answer):
    if not answer or 'error' in answer:
        raise Failed(f'{what}: {answer}')
    return answer


def off():
    """Nothing of any guest is left behind; folding again begins with the keeper; the exit status
    says it."""
    manager = Manager()
    rig = Rig(seed=1, notify=manager.bind)
    try:
        for _ in range(2):
            rig.add_guest('--pages', '2048', '--threads', '3')
        rig.start_daemon()
        rig.wait_folded(FOLDED, 60)
        for turn in range(3):
            if not memory_files_of(rig.keeper.pid) or not manager.names():
                raise Failed('folded, and the keeper or its manager holds nothing')
            if turn == 1:
                rig.kill_daemon()
                rig.start_daemon()
                wait('an answer', rig.snapshot)
            must_succeed('off', rig.request('off', 60))
            is_off(rig, manager)
            for guest in rig.guests:
                guest.check()
            say(f'turn {turn}: off, the manager held up to {manager.most} descriptors')
            refused = rig.request('attach', vm=str(rig.guests[0].process.pid))
            if (refused['error']['failure'] != 'conflict'
                    or 'ramfold resume' not in refused['error']['remedy']):
                raise Failed(f'attached while off: {refused}')
            must_succeed('resume', rig.request('resume'))
            rig.wait_folded(FOLDED, 60)
        # A daemon that dies now has left everything with the keeper.
        rig.kill_daemon()
        rig.start_daemon()
        rig.wait_folded(50, 30)
        for guest in rig.guests:
            guest.check()
        if (status := rig.stop_daemon()) != 0:
            raise Failed(f'guests depend on it, and it ended with {status}')
        rig.start_daemon()
        rig.wait_folded(50, 30)
        must_succeed('off', rig.request('off', 60))
        is_off(rig, manager)
        # Reloaded, a daemon that is off goes on, and is off.
        rig.daemon.send_signal(signal.SIGHUP)
        wait('the file is read anew', lambda: 'read anew' in ''.join(rig.log_tail()), 30)
        if rig.daemon_died() or rig.snapshot()['host']['state'] != 'off':
            raise Failed('reloaded while off it is not off')
        is_off(rig, manager)
        if (status := rig.stop_daemon()) != 10:
            raise Failed(f'after off it ended with {status}, its unit waits for 10')
        rig.keeper.terminate()
        if (status := rig.keeper.wait(10 * slower())) != 0:
            raise Failed(f'the keeper ended with {status}')
        for guest in rig.guests:
            guest.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def cli(rig, *arguments):
    return subprocess.run(
        [binary('RAMFOLD_CLI'), *arguments, '--socket', f'{rig.dir}/control.sock'],
        capture_output=True, text=True, check=False, timeout=60 * slower())


def refused():
    """Where memory would not suffice nothing is begun, and the answer says what to do."""
    # Folding may promise more than there is, bringing back may not: all memory is reserved.
    rig = Rig(seed=2, host=f'reserve = {1 << 40}\nunbacked_max = {1 << 41}')
    try:
        guest = rig.add_guest('--pages', '2048', '--threads', '2', '--no-raw-discards')
        rig.start_daemon()
        rig.wait_folded(FOLDED, 60)
        pid = str(guest.process.pid)
        for command in (['off'], ['detach', pid]):
            plan = cli(rig, *command, '--dry-run')
            if (plan.returncode != 4 or 'pages come back' not in plan.stdout
                    or 'about' not in plan.stdout):
                raise Failed(f'{command} --dry-run: {plan}')
            done = cli(rig, *command)
            if (done.returncode != 4 or 'are missing' not in done.stderr
                    or 'remedy: free' not in done.stderr or 'host.reserve' not in done.stderr):
                raise Failed(f'{command}: {done}')
            say(done.stdout.strip())
            say(done.stderr.strip())
        if rig.snapshot()['host']['state'] != 'folding':
            raise Failed('a refusal must change nothing')
        rig.wait_folded(FOLDED, 30)
        guest.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


class MemoryGroup:
    """A memory cgroup of the test's own."""

    def __init__(self):
        for base, self.limit_file in (('/sys/fs/cgroup/memory', 'memory.limit_in_bytes'),
                                      ('/sys/fs/cgroup', 'memory.max')):
            self.path = f'{base}/ramfold-off-{os.getpid()}'
            try:
                os.mkdir(self.path)
                self.limit(64 * MIB)
                return
            except OSError:
                if os.path.isdir(self.path):
                    os.rmdir(self.path)
        print('no memory cgroup can be made here')
        sys.exit(77)

    def _write(self, name, text):
        with open(f'{self.path}/{name}', 'w', encoding='ascii') as file:
            file.write(str(text))

    def limit(self, size):
        self._write(self.limit_file, size)

    def add(self, pid):
        self._write('cgroup.procs', pid)

    def remove(self):
        for _ in range(100):
            try:
                os.rmdir(self.path)
                return
            except OSError:
                time.sleep(0.05)


def full_cgroup():
    """Where a VM has no room for its own pages, --dry-run says so, and says what the real call
    says."""
    group = MemoryGroup()
    rig = Rig(seed=6)
    try:
        with QuietGuest(rig, 32) as guest, QuietGuest(rig, 16, '-name', 'other') as other:
            rig.start_daemon()

            def all_is_folded():
                return all((v := one.view()) and v['saved']['folded_pages'] >= pages
                           for one, pages in ((guest, 8000), (other, 4000)))

            wait('all of both is folded', all_is_folded, 60)
            commands = (['detach', guest.pid], ['off'])
            for command in commands:
                plan = cli(rig, *command, '--dry-run')
                if plan.returncode != 0 or 'pages come back' not in plan.stdout:
                    raise Failed(f'{command} --dry-run, with room: {plan}')
            group.limit(16 * MIB)
            group.add(guest.pid)
            vm = f'vm {guest.view()["name"]} (id {guest.view()["id"]})'
            for command in commands:
                plan = cli(rig, *command, '--dry-run')
                if (plan.returncode != 4 or 'memory cgroup' not in plan.stderr
                        or vm not in plan.stderr or 'missing:' not in plan.stderr):
                    raise Failed(f'{command} --dry-run into a full cgroup: {plan}')
                done = cli(rig, *command)
                if done.returncode != 4 or vm not in done.stderr:
                    raise Failed(f'{command} into a full cgroup: {done}')
                say(plan.stderr.strip())
            # The other VM has room of its own, and nothing was begun.
            if cli(rig, 'detach', other.pid, '--dry-run').returncode != 0:
                raise Failed('the other VM has no limit')
            if rig.snapshot()['host']['state'] != 'folding':
                raise Failed('a refusal must change nothing')
            if not all_is_folded():
                raise Failed(f'pages came back: {guest.view()}, {other.view()}')
            group.limit(128 * MIB)
            for command in commands:
                plan = cli(rig, *command, '--dry-run')
                if plan.returncode != 0:
                    raise Failed(f'{command} --dry-run, with room again: {plan}')
            # With room for one of two VMs, the first one must not fill the group.
            group.add(other.pid)
            group.limit(40 * MIB)
            for one in (guest, other):
                plan = cli(rig, 'detach', one.pid, '--dry-run')
                if plan.returncode != 0:
                    raise Failed(f'detach --dry-run, with room for one VM: {plan}')
            for command in (['off', '--dry-run'], ['off']):
                done = cli(rig, *command)
                if (done.returncode != 4 or group.path not in done.stderr
                        or 'its 2 VMs' not in done.stderr or 'missing:' not in done.stderr):
                    raise Failed(f'{command} without room for both: {done}')
            say(done.stderr.strip())
            if rig.snapshot()['host']['state'] != 'folding' or not all_is_folded():
                raise Failed(f'a refusal must change nothing: {guest.view()}, {other.view()}')
            guest.check()
            other.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)
        group.remove()


class QuietGuest:
    """A guest of these MiB beside a rig's daemon, with what the daemon says of it."""

    def __init__(self, rig, mib, *arguments):
        self.rig = rig
        environment = dict(os.environ, LD_PRELOAD=binary('RAMFOLD_AGENT'), RAMFOLD_SETTLE_MS='20',
                           RAMFOLD_AGENT_SOCKET=f'{rig.dir}/agent.sock')
        self.process = subprocess.Popen(
            [sys.executable, '-c', QUIET_GUEST, str(mib), *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment)
        self.pid = str(self.process.pid)

    def __enter__(self):
        try:
            _, ram, self.checksum = self.process.stdout.readline().split()
        except ValueError:
            self.end()
            raise Failed('the guest does not begin') from None
        self.ram_path = f'/proc/{self.pid}/fd/{ram}'
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()

    def view(self):
        answer = self.rig.request('show', 5, vm=self.pid)
        return answer['vm'] if answer and 'vm' in answer else None

    def reason(self, code):
        return {r['code']: r for r in wait('an answer', self.view)['reasons']}.get(code)

    def order(self, line):
        self.process.stdin.write(line + '\n')
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def check(self):
        if self.order('sum') != self.checksum:
            raise Failed('the guest has other bytes than it wrote')

    def add_ram(self, mib):
        if self.order(f'add {mib}') != 'added':
            raise Failed('the guest could not add RAM')


def incoming():
    """A VM that began with a migration is folded when the operator says that it has ended: by the
    remedy's words."""
    rig = Rig(seed=4)
    try:
        with QuietGuest(rig, 16, '-incoming', 'defer') as guest:
            rig.start_daemon()
            reason = wait('the reason', lambda: guest.reason('incoming_migration'), 20)
            time.sleep(1)
            if guest.view()['saved']['folded_pages'] != 0:
                raise Failed('folded while pages may still arrive')
            words = reason['remedy'].split('`')[1].split()
            if words[0] != 'ramfold' or 'VM' not in words:
                raise Failed(f'what should one do? {reason}')
            done = cli(rig, *[guest.pid if word == 'VM' else word for word in words[1:]])
            if done.returncode != 0:
                raise Failed(f'{words}: {done}')
            wait('it is folded', lambda: guest.view()['saved']['folded_pages'] >= 4000, 60)
            cpu = rig.snapshot()['host']['cpu']
            if not 0 < cpu['scan_seconds'] < 60 or not 0 < cpu['fold_seconds'] < 60:
                raise Failed(f'scanning and folding took time: {cpu}')
            rig.kill_daemon()
            rig.start_daemon()
            wait('the gate opens again',
                 lambda: (v := guest.view()) and v['gate'] == 'pinned', 30)
            guest.check()
            must_succeed('off', rig.request('off', 60))
            guest.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def consumed(rig, group, guest):
    wait('all of it is folded',
         lambda: (v := guest.view()) and v['saved']['folded_pages'] >= 8000, 60)
    group.limit(16 * MIB)
    group.add(guest.pid)
    no = rig.request('detach', vm=guest.pid)
    if no['error']['failure'] != 'refused' or 'cgroup' not in no['error']['remedy']:
        raise Failed(f'detach into a full cgroup: {no}')
    say(f'detach: {no["error"]["text"]}; {no["error"]["remedy"]}')
    with open(guest.ram_path, 'r+b', buffering=0) as file, \
            mmap.mmap(file.fileno(), 4096) as _:
        reason = wait('the reason', lambda: guest.reason('unfold-failed'), 30)
        if 'cgroup' not in reason['text']:
            raise Failed(f'why? {reason}')
        say(f'{reason["text"]}; {reason["remedy"]}')
        wait('several attempts',
             lambda: '(1 attempts' not in guest.reason('unfold-failed')['text'], 10)
        if guest.view()['saved']['folded_pages'] < 8000 or guest.process.poll() is not None:
            raise Failed(f'it was begun without room: {guest.view()}')
        group.limit(128 * MIB)
        wait('everything is back', lambda: guest.view()['saved']['folded_pages'] == 0, 60)
        wait('no more trouble', lambda: not guest.reason('unfold-failed'), 10)
    with open(f'{rig.dir}/daemon.log', encoding='utf-8') as file:
        lines = [line for line in file if 'unfolding for another consumer' in line]
    if len(lines) != 2 or 'trying again' not in lines[0] or 'done after' not in lines[1]:
        raise Failed(f'one line when it fails and one when it holds: {lines}')
    # The consumer has gone again; the VM stays as it is.
    time.sleep(7)
    now = guest.view()
    if now['saved']['folded_pages'] != 0 or now['state'] != 'observe-only':
        raise Failed(f'folded again: {now}')
    tells_what_is_held(guest)
    guest.check()


def tells_what_is_held(guest):
    """Also of a VM that another consumer keeps unfolded the daemon tells which pages are held. Here
    pipes hold them, as a device would."""
    mib = 5  # more than an eighth of the VM
    ends = []
    with open(guest.ram_path, 'rb', buffering=0) as ram:
        for start in range(MIB, (mib + 1) * MIB, MIB):  # the first page has zeros: it is a hole
            out, into = os.pipe()
            ends += [out, into]
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, MIB)
            done = 0
            while done < MIB:
                done += os.splice(ram.fileno(), into, MIB - done, offset_src=start + done)
    held = mib * MIB // 4096
    wait('held pages are told', lambda: (v := guest.view()) and v['pages']['held'] >= held, 60)
    reason = wait('the reason', lambda: guest.reason('held-pages'), 10)
    if 'another reason' not in reason['remedy']:
        raise Failed(f'what should one do? {reason}')
    say(reason['text'])
    for end in ends:
        os.close(end)
    # A few lie in a batch of a CPU.
    wait('nothing is held', lambda: (v := guest.view()) and v['pages']['held'] < held // 4, 60)
    if guest.reason('held-pages'):
        raise Failed('a reason, and no page is held')


def consumer():
    """Another process maps a VM's RAM, and the VM has no room for its own pages: tried until it
    has."""
    group = MemoryGroup()
    rig = Rig(seed=3)
    try:
        with QuietGuest(rig, 32) as guest:
            rig.start_daemon()
            consumed(rig, group, guest)
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)
        group.remove()


def ended():
    """A VM's memory is free soon after its end: nobody who waits for something else holds its
    files."""
    rig = Rig(seed=5)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16) as guest:
            wait('it is folded',
                 lambda: (v := guest.view()) and v['saved']['folded_pages'] >= 4000, 60)

        def log():
            with open(f'{rig.dir}/daemon.log', encoding='utf-8') as file:
                return file.read()

        def rams():
            return [name for name in memory_files_of(rig.daemon.pid) if 'memory-backend' in name]

        wait('it is noticed', lambda: 'references given up' in log(), 30)
        began = time.monotonic()
        wait('its memory is free', lambda: not rams(), 2)
        say(f'free {time.monotonic() - began:.2f} s after its contents')
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


if __name__ == '__main__':
    sys.exit(run_named({'off': off, 'refused': refused, 'full-cgroup': full_cgroup,
                        'consumer': consumer, 'incoming': incoming, 'ended': ended}))
