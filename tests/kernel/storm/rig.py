# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeper, daemon and fake guests in a private runtime directory, for the storm's tests."""
import grp
import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from service_manager import ServiceManager

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / 'scripts'))
from kernel_can import no_bpf  # noqa: E402
from patience import deadline, slower  # noqa: E402
from sockets import listening  # noqa: E402

CONFIG = """
runtime_dir = "{dir}"
agent_group = "{agent_group}"
state_dir = "{dir}/state"
log_level = "info"
[fold]
when = "eager"
passes = {passes}
pass_seconds = 0.1
backoff = false
stall_budget = 100
{fold}
[reform]
policy = "dense"
cpu = 0.5
[scan]
cpu = 1.0
threads = {scan_threads}
[fault]
threads_per_vm = {fault_threads}
[host]
{host}
{extra}
"""




class Failed(Exception):
    pass


def say(text):
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)


def wait(what, condition, seconds=30):
    """Until the condition gives something true, which is returned."""
    end = deadline(seconds)
    while not (found := condition()):
        if time.monotonic() > end:
            raise Failed(f'{what}: not within {seconds} s')
        time.sleep(0.05)
    return found


def need_userfaultfd():
    if not os.path.exists('/dev/userfaultfd') or os.geteuid() != 0:
        print('needs root and /dev/userfaultfd')
        sys.exit(77)
    if refusal := no_bpf():
        print(f'the gate cannot ask the kernel here: {refusal}')
        sys.exit(77)


def run(rig, body):
    """body(rig), and the rig put away, its logs kept when it failed. Returns the test's exit
    status."""
    failed = True
    try:
        body(rig)
        failed = False
    except Failed as e:
        say(f'FAILED: {e}')
    finally:
        rig.close(keep=failed)
    return 1 if failed else 0


def run_named(tests):
    """The main of a script whose argument names one of its tests. Returns the exit status."""
    need_userfaultfd()
    try:
        tests[sys.argv[1]]()
    except Failed as e:
        say(f'FAILED: {e}')
        return 1
    return 0


def must_lose(body, too_weak):
    """Some guest meets a wrong byte in body(), or the test could not have found one: Failed, with
    `too_weak`."""
    try:
        body()
    except Failed as e:
        if 'BAD' not in str(e):
            raise
        say(f'caught: {e}')
        return
    raise Failed(too_weak)


def binary(name):
    path = os.environ.get(name)
    if not path:
        raise Failed(f'{name} is not set: run me through meson test')
    return path


class Guest:
    """A storm_guest; reads its answers on a thread, so that a waiting guest cannot block the
    test."""

    def __init__(self, rig, number, arguments):
        env = dict(os.environ, LD_PRELOAD=':'.join([binary('RAMFOLD_AGENT'), *rig.preloads]),
                   RAMFOLD_AGENT_SOCKET=f'{rig.dir}/agent.sock', RAMFOLD_SETTLE_MS='20')
        self.number = number
        self.process = subprocess.Popen(
            [binary('RAMFOLD_STORM_GUEST'), '--guest', str(number),
             '--seed', str(rig.seed + number), *arguments],
            user=rig.guest_user, group=rig.guest_user,
            extra_groups=None if rig.guest_user is None else [],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True)
        self.lines = queue.Queue()
        self.bad = []
        self.said = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith('BAD'):
                self.bad.append(line.strip())
            self.lines.put(line.strip())
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.said.append(line.strip())

    def alive(self):
        return self.process.poll() is None and not self.bad

    def ask(self, command, seconds):
        try:
            self.process.stdin.write(command + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        try:
            line = self.lines.get(timeout=seconds * slower())
        except queue.Empty:
            raise Failed(f'guest {self.number}: no answer to `{command}` within {seconds} s: '
                         'a thread waits for ever')
        if line is None or line.startswith('BAD'):
            time.sleep(0.2)
            raise Failed(f'guest {self.number}: {self.bad or "ended"} {self.said[-3:]}')
        return line

    def status(self):
        words = self.ask('status', 10).split()
        return dict(zip(words[::2], map(int, words[1::2])))

    def check(self, seconds=30):
        if not self.ask('check', seconds).startswith('checked'):
            raise Failed(f'guest {self.number}: check failed')


class Rig:
    def __init__(self, seed=1, passes=1, fault_threads=1, scan_threads=1, daemon='RAMFOLDD_POINTS',
                 host='reserve = "1%"', extra='', notify=None, managed=False,
                 agent_group='root', guest_user=None, fold=''):
        """host: keys of [host]; extra: more of the configuration; notify: a function that makes, in
        the rig's directory, the socket of a service manager for the keeper; managed: a service
        manager that starts it; agent_group: root's by default, which hostile agents of other users
        keep; guest_user: the uid and gid of the guests, which then may use the agents' socket;
        fold: keys of [fold]."""
        self.guest_user = guest_user
        self.dir = tempfile.mkdtemp(prefix='rf-storm.', dir='/dev/shm')
        self.seed = seed
        self.daemon_binary = daemon
        self.before_daemon = []  # a command that executes what follows it
        self.preloads = []  # into daemon and guests
        self.daemon_preloads = []
        self.daemon = None
        self.guests = []
        self.kills = 0
        self.restarts = 0
        self.brought_back = 0
        self.standing = 0
        self.faults = 0
        with open(f'{self.dir}/config.toml', 'w') as f:
            f.write(CONFIG.format(dir=self.dir, passes=passes, fault_threads=fault_threads,
                                  scan_threads=scan_threads, host=host, extra=extra,
                                  agent_group=agent_group if guest_user is None
                                  else grp.getgrgid(guest_user).gr_name, fold=fold))
        if guest_user is not None:
            os.chmod(self.dir, 0o711)
        self.log = open(f'{self.dir}/daemon.log', 'w')
        self.notify = notify(self.dir) if notify else None
        self.manager = ServiceManager(f'{self.dir}/notify.sock') if managed else None
        self.start_keeper()

    def start_keeper(self):
        """Returns when the keeper answers; a killed one leaves its socket behind."""
        path = f'{self.dir}/keeper.sock'
        if os.path.exists(path):
            os.unlink(path)
        command = [binary('RAMFOLD_KEEPER'), '--socket', path]
        env = dict(os.environ, NOTIFY_SOCKET=self.notify) if self.notify else None
        self.keeper = (self.manager.start(command, self.log) if self.manager
                       else subprocess.Popen(command, stderr=self.log, env=env))
        self.wait(lambda: listening(path), 10, 'the keeper')

    def kill_keeper(self):
        self.keeper.kill()
        self.keeper.wait()

    @staticmethod
    def wait(condition, seconds, what):
        end = deadline(seconds)
        while not condition():
            if time.monotonic() > end:
                raise Failed(f'{what} did not come within {seconds} s')
            time.sleep(0.01)

    def add_guest(self, *arguments):
        self.guests.append(Guest(self, len(self.guests), arguments))
        return self.guests[-1]

    def start_daemon(self, kill_at=None):
        env = dict(os.environ)
        preloads = [*self.preloads, *self.daemon_preloads]
        if preloads:
            env['LD_PRELOAD'] = ':'.join([*filter(None, [env.get('LD_PRELOAD')]), *preloads])
        if kill_at:
            env['RAMFOLD_KILL_AT'] = kill_at
        self.daemon = subprocess.Popen([*self.before_daemon, binary(self.daemon_binary),
                                        '--config', f'{self.dir}/config.toml'],
                                       stderr=self.log, env=env)

    def daemon_died(self):
        return self.daemon.poll() is not None

    def stop_daemon(self, seconds=20, how=signal.SIGTERM):
        """As systemd would, with SIGHUP as `systemctl reload` would after another version was
        installed; the exit status."""
        self.daemon.send_signal(how)
        return self.daemon.wait(seconds * slower())

    def kill_daemon(self):
        self.daemon.kill()
        self.daemon.wait()
        self.kills += 1

    def must_be_well(self):
        """Guests alive, and the daemon has not ended by itself other than by the kill it was told
        of."""
        for guest in self.guests:
            if not guest.alive():
                time.sleep(0.2)
                raise Failed(f'guest {guest.number} after {self.kills} kills: '
                             f'{guest.bad} {guest.said[-3:]}')
        code = self.daemon.poll() if self.daemon else None
        if self.manager and code is not None and code >= 0:
            self.restarts += 1  # as its unit does: it had no keeper, or lost it as it started
            self.start_daemon()
        elif code is not None and code != -signal.SIGKILL:
            raise Failed(f'the daemon ended with {code}: {self.log_tail()}')

    def log_tail(self):
        with open(f'{self.dir}/daemon.log', errors='replace') as f:
            return f.readlines()[-5:]

    def request(self, op, seconds=30, **fields):
        """The last line of the answer; None when the daemon is not there or dies meanwhile."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(seconds * slower())
                s.connect(f'{self.dir}/control.sock')
                s.sendall((json.dumps({'ramfold': 1, 'op': op, **fields}) + '\n').encode())
                with s.makefile() as lines:
                    for line in lines:
                        answer = json.loads(line)
                        if answer.keys() & {'snapshot', 'vm', 'policy', 'done', 'error'}:
                            return answer
        except OSError:
            pass
        return None

    def served_by_newest(self):
        """Whether it is the daemon started last, and not one that is on its way out, that
        answers."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(f'{self.dir}/control.sock')
                pid = struct.unpack(
                    '3i', s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return False
        return pid == self.daemon.pid and self.snapshot() is not None

    def snapshot(self):
        answer = self.request('snapshot', 5)
        return answer and answer.get('snapshot')

    def count(self):
        """Adds up what this daemon has done; its counters start anew with each."""
        snapshot = self.snapshot()
        for vm in snapshot['vms'] if snapshot else []:
            if not 0 <= vm['saved'].get('folded_pages', 0) <= vm['pages']['total']:
                raise Failed(f'{vm["saved"]} of {vm["pages"]}: the counters are wrong')
            self.standing = max(self.standing, vm['saved'].get('folded_pages', 0))
            self.brought_back += sum(f['count'] for f in vm['faults'] if f['kind'] == 'content')
            self.faults += vm['fault_events']

    def counted(self):
        return (f'{self.brought_back} contents brought back, {self.faults} faults, '
                f'up to {self.standing} pages folded at once')

    def wait_folded(self, pages, seconds):
        """Until each guest has as many pages folded."""
        def enough():
            self.must_be_well()
            snapshot = self.snapshot()
            return bool(snapshot) and len(snapshot['vms']) == len(self.guests) and all(
                vm['saved'].get('folded_pages', 0) >= pages for vm in snapshot['vms'])
        end = deadline(seconds)
        while not enough():
            if time.monotonic() > end:
                snapshot = self.snapshot() or {'host': {}, 'vms': []}
                raise Failed(f'not {pages} pages folded within {seconds} s: '
                             f'{snapshot["host"].get("reasons")} '
                             f'{[(vm["state"], vm["reasons"]) for vm in snapshot["vms"]]}')
            time.sleep(0.1)

    def wait_state(self, state, seconds):
        end = deadline(seconds)
        while True:
            snapshot = self.snapshot() or {'vms': []}
            if snapshot['vms'] and all(vm['state'] == state for vm in snapshot['vms']):
                return
            if time.monotonic() > end:
                raise Failed(f'not {state} after {seconds} s: '
                             f'{[(v["state"], v["reasons"]) for v in snapshot["vms"]]}')
            self.must_be_well()
            time.sleep(0.1)

    def close(self, keep):
        for process in [self.daemon, self.keeper, *(g.process for g in self.guests)]:
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self.log.close()
        if keep:
            print(f'logs stay in {self.dir}')
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
