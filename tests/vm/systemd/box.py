# SPDX-License-Identifier: GPL-2.0-or-later
"""ramfold's units in a systemd of their own (box.sh), for tests in Python."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / 'scripts'))
from patience import deadline  # noqa: E402

BIN = '/usr/local/lib/ramfold-box'
CONFIG = """
[fold]
when = "eager"
passes = 1
pass_seconds = 0.1
backoff = false
stall_budget = 100
[scan]
cpu = 1.0
[host]
reserve = "1%"
"""
BACK_S = 20  # of which an old daemon has three to end by itself


class Failed(Exception):
    pass


def ok(text):
    print(f'ok: {text}', flush=True)


class Box:
    # `settings`: lines for the top of the configuration.
    def __init__(self, source, programs, settings=''):
        self.dir = tempfile.mkdtemp(prefix='ramfold-box-', dir='/var/tmp')
        copy = pathlib.Path(self.dir, 'copy')
        for below in (BIN.lstrip('/'), f'{BIN.lstrip("/")}/libexec/ramfold', 'etc/systemd/system',
                      'etc/ramfold'):
            (copy / below).mkdir(parents=True, exist_ok=True)
        for program in programs:
            name = os.path.basename(program)
            below = 'libexec/ramfold' if name == 'ramfold-keeper' else ''
            shutil.copy(program, copy / BIN.lstrip('/') / below / name)
        for unit in ('ramfold-keeper.service', 'ramfold.service'):
            text = pathlib.Path(source, 'systemd', f'{unit}.in').read_text()
            for what, where in (('bindir', BIN), ('sbindir', BIN),
                                ('libexecdir', f'{BIN}/libexec')):
                text = text.replace(f'@{what}@', where)
            (copy / 'etc/systemd/system' / unit).write_text(text)
        (copy / 'etc/ramfold/ramfold.toml').write_text(settings + CONFIG)
        # The remedy that `list` names where the host has ever made large folios of shared memory.
        drop_in = copy / 'etc/systemd/system/ramfold.service.d'
        drop_in.mkdir()
        (drop_in / 'frames.conf').write_text('[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN\n')
        os.chmod(copy / 'etc/ramfold', 0o755)

    def start(self):
        started = subprocess.run([HERE / 'box.sh', 'start', self.dir])
        if started.returncode != 0:
            sys.exit(started.returncode)

    def stop(self):
        if os.path.exists(f'{self.dir}/box.pid'):
            subprocess.run([HERE / 'box.sh', 'stop', self.dir], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def command(self, *words):
        return [str(HERE / 'box.sh'), 'run', self.dir, *words]

    def run(self, *words, check=True):
        done = subprocess.run(self.command(*words), stdout=subprocess.PIPE, text=True)
        if check and done.returncode != 0:
            raise Failed(f'{words}: {done.returncode}')
        return done.stdout.strip()

    def property(self, name, unit='ramfold'):
        return self.run('systemctl', 'show', '-P', name, unit)

    def daemon(self):
        return self.property('MainPID')

    def thread_stats(self, pid):
        """proc(5)'s stat of each thread of a process, from the state on, by name."""
        for stat in self.run('sh', '-c', f'cat /proc/{pid}/task/*/stat', check=False).splitlines():
            name, _, rest = stat.partition('(')[2].rpartition(')')
            yield name, rest.split()

    def threads(self, pid):
        """Names and states of the threads of a process."""
        return [(name, stat[0]) for name, stat in self.thread_stats(pid)]

    def nice(self, pid):
        """Names and nice values of the threads of a process."""
        return [(name, int(stat[16])) for name, stat in self.thread_stats(pid)]

    def folded(self):
        """Pages of each VM that the daemon answers for, by name."""
        answer = self.run(f'{BIN}/ramfold', 'list', '--json', check=False)
        return {vm['name']: vm['saved'].get('folded_pages', 0)
                for vm in (json.loads(answer)['vms'] if answer else [])}

    def is_back(self, old, unit='ramfold'):
        """Another process than `old` is the unit's, and the daemon answers."""
        return (self.property('MainPID', unit) not in (old, '0')
                and self.property('SubState', unit) == 'running'
                and self.run(f'{BIN}/ramfold', 'status', check=False) != '')

    def complain(self, why):
        """What there is to say of a failure."""
        print(f'FAILED: {why}')
        print(self.run(f'{BIN}/ramfold', 'list', check=False))
        print(self.run('systemctl', 'status', '--no-pager', '-l', '-n', '40', 'ramfold',
                       check=False))
        print(subprocess.run(['tail', '-60', f'{self.dir}/console'], stdout=subprocess.PIPE,
                             text=True, check=False).stdout)


def wait(what, condition, seconds=BACK_S):
    began = time.monotonic()
    end = deadline(seconds)
    while not condition():
        if time.monotonic() > end:
            raise Failed(f'{what}: not within {seconds} s')
        time.sleep(0.1)
    return time.monotonic() - began


def run(box, body):
    """body(box) in a box that is started and put away; ends this program."""
    try:
        box.start()
        body(box)
    except Failed as e:
        box.complain(e)
        sys.exit(1)
    finally:
        box.stop()
