#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration of a running daemon changes: by its file, and by `ramfold policy set`.

policy.py vm|group|reload|set|version. Exits 77 where a userfaultfd cannot be driven from
outside."""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from decisions import is_folded, restart, stays_unfolded, vm_of, wait_vm
from off import QuietGuest, cli, must_succeed
from patience import slower
from rig import Failed, Rig, binary, run_named, wait

NOBODY = 65534


def keys_of(rig, vm=None):
    """The rows of `policy get`, by key."""
    answer = rig.request('policy-get', **({'vm': vm} if vm else {}))
    if not answer or 'policy' not in answer:
        raise Failed(f'policy-get: {answer}')
    return {row['key']: row for row in answer['policy']['keys']}


def put(rig, *assignments, vm=None):
    return rig.request('policy-set', assignments=assignments, **({'vm': vm} if vm else {}))


def must_put(rig, *assignments, vm=None):
    answer = put(rig, *assignments, vm=vm)
    if not answer or 'policy' not in answer:
        raise Failed(f'policy-set {assignments}: {answer}')


def must_be(rig, key, value, origin, vm=None):
    row = keys_of(rig, vm)[key]
    if (row['value'], row['origin']) != (value, origin):
        raise Failed(f'{key} is not {value} by {origin}: {row}')


def must_refuse(rig, what, *assignments, vm=None):
    answer = put(rig, *assignments, vm=vm)
    if not answer or what not in answer.get('error', {}).get('text', '') \
            or not answer['error']['remedy'] or '\n' in answer['error']['text']:
        raise Failed(f'{assignments}: not refused with "{what}" and a remedy: {answer}')


def vm():
    """fold, lz4 and zero of one VM hold from its next chunk on, and outlive the daemon."""
    rig = Rig(seed=21, extra='[[vm]]\nname = "web"\nuid = 0\nfold = false\n')
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait_vm(rig, web, 'observe-only')
            stays_unfolded(rig, web)
            must_be(rig, 'fold', 'false', 'file', vm='web')
            if 'policy' not in [r['code'] for r in vm_of(rig, web)['reasons']]:
                raise Failed(f'no reason: {vm_of(rig, web)["reasons"]}')
            # Without lz4 pages that no other page equals stay.
            must_put(rig, 'lz4=false', 'zero=false', 'fold=true', vm='web')
            passes = wait('passes', lambda: vm_of(rig, web)['passes'], 60)
            wait('more passes', lambda: vm_of(rig, web)['passes'] > passes + 3, 60)
            stays_unfolded(rig, web)
            must_be(rig, 'lz4', 'false', 'set', vm='web')
            must_put(rig, 'lz4=', 'zero=', vm='web')
            must_be(rig, 'lz4', 'true', 'default', vm='web')
            wait('web is folded', is_folded(web), 60)
            restart(rig)
            must_be(rig, 'fold', 'true', 'set', vm='web')
            web.check()
            wait('web is folded again', is_folded(web), 60)
            # Its own `when` wins over the host's.
            must_put(rig, 'fold.when=pressure', 'fold.keep_available=1%')
            must_put(rig, 'when=eager', 'passes=2', vm='web')
            web.check()
            wait('web is folded while memory is plentiful', is_folded(web), 60)
            must_be(rig, 'when', 'eager', 'set', vm='web')
            must_be(rig, 'passes', '2', 'set', vm='web')
            must_put(rig, 'fold.when=', 'fold.keep_available=')
            must_put(rig, 'when=pressure', vm='web')
            web.check()
            stays_unfolded(rig, web)
            if 'memory-plentiful' not in [r['code'] for r in vm_of(rig, web)['reasons']]:
                raise Failed(f'no reason: {vm_of(rig, web)["reasons"]}')
            must_put(rig, 'when=', 'passes=', vm='web')
            must_be(rig, 'when', 'eager', 'file', vm='web')
            wait('web is folded as the host says', is_folded(web), 60)
            # Taken back the file holds, and what came back stays.
            must_put(rig, 'fold=', vm='web')
            must_be(rig, 'fold', 'false', 'file', vm='web')
            web.check()
            stays_unfolded(rig, web)
            group = keys_of(rig, 'web')['group']['value']
            must_refuse(rig, 'group', 'group=a/b', vm='web')
            must_refuse(rig, 'unknown key', 'fold=true', 'lz5=true', vm='web')
            must_be(rig, 'fold', 'false', 'file', vm='web')
            must_be(rig, 'group', group, 'default', vm='web')
            # The values of a VM that has gone can be taken back.
            must_put(rig, 'fold=true', vm='web')
        wait('it has gone', lambda: not rig.snapshot()['vms'], 30)
        must_refuse(rig, 'no attached VM', 'fold=false', vm='web')
        if (answer := put(rig, 'fold=', vm='web')).get('policy', {}).get('keys') != []:
            raise Failed(f'not taken back: {answer}')
        must_refuse(rig, 'no attached VM', 'fold=', vm='web')
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait_vm(rig, web, 'observe-only')
            must_be(rig, 'fold', 'false', 'file', vm='web')
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def reload():
    """A file that is read anew is taken up by a running daemon; a broken one changes nothing; keys
    that change only at a start are told with their line."""
    rig = Rig(seed=22)
    config = f'{rig.dir}/config.toml'
    with open(config, encoding='ascii') as file:
        good = file.read()

    def take(text):
        with open(config, 'w', encoding='ascii') as file:
            file.write(text)
        rig.daemon.send_signal(signal.SIGHUP)

    def notice(code):
        snapshot = rig.snapshot()
        return next((n for n in (snapshot or {'host': {}})['host'].get('notices', [])
                     if n['code'] == code), None)

    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            before = keys_of(rig)
            take(good.replace('pass_seconds = 0.1', 'pass_seconds = "soon"')
                 .replace('passes = 1', 'passes = 9'))
            told = wait('the broken file is told', lambda: notice('config'), 30)
            line = good[:good.index('pass_seconds')].count('\n') + 1
            if f'{config}:{line}: fold.pass_seconds' not in told['text']:
                raise Failed(f'which line? {told}')
            if keys_of(rig) != before:
                raise Failed(f'a broken file changed {keys_of(rig)}')
            take(good.replace('passes = 1', 'passes = 3').replace('/state"', '/elsewhere"')
                 .replace('policy = "dense"', 'policy = "off"'))
            wait('the file is taken', lambda: keys_of(rig)['fold.passes']['value'] == '3', 30)
            if notice('config'):
                raise Failed(f'it is mended: {notice("config")}')
            told = wait('what waits for a start is told', lambda: notice('next-start'), 30)
            line = good[:good.index('state_dir')].count('\n') + 1
            if f'{config}:{line}: state_dir changes at the next start' not in told['text']:
                raise Failed(f'which line? {told}')
            state = keys_of(rig)['state_dir']
            if state['value'] != f'{rig.dir}/state' or state['pending'] != f'{rig.dir}/elsewhere':
                raise Failed(f'{state}')
            wait('nothing is reformed', lambda: not rig.snapshot()['host']['reform']['active'], 10)
            must_put(rig, 'reform.policy=balanced')
            wait('it is reformed', lambda: rig.snapshot()['host']['reform']['active'], 10)
            take(good.replace('when = "eager"', 'when = "pressure"\nkeep_available = "1%"')
                 .replace('[scan]', 'similar = false\n[scan]'))
            wait('memory is plentiful', lambda: 'memory-plentiful' in [
                r['code'] for r in rig.snapshot()['host']['reasons']], 30)
            must_be(rig, 'reform.policy', 'balanced', 'set')
            web.check()
            take(good)
            wait('folded again', is_folded(web), 60)
            if rig.daemon_died() or rig.snapshot()['host']['restarts'] != 0:
                raise Failed('a reload was a restart')
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def group():
    """A VM that gets another trust group leaves the old one before the command returns: its pages
    come back, it is attached anew, and is folded in the new group. Its neighbour stays."""
    rig = Rig(seed=25)

    def group_of(vm):
        return keys_of(rig, vm)['group']['value']

    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web, QuietGuest(rig, 16, '-name', 'db') as db:
            wait('both are folded', lambda: is_folded(web)() and is_folded(db)(), 60)
            owners = group_of('web')
            if group_of('db') != owners:
                raise Failed(f'{owners} and {group_of("db")}')
            ids = {vm.process.pid: vm_of(rig, vm)['id'] for vm in (web, db)}
            must_put(rig, 'group=blue', 'lz4=true', vm='web')
            if group_of('web') != 'set:blue' or group_of('db') != owners:
                raise Failed(f'{group_of("web")} and {group_of("db")}')
            if vm_of(rig, web)['id'] == ids[web.process.pid]:
                raise Failed('it was not attached anew')
            if vm_of(rig, db)['id'] != ids[db.process.pid]:
                raise Failed('its neighbour was attached anew')
            web.check()
            wait('it is folded in its new group', is_folded(web), 60)
            # The same group again changes nothing.
            now = vm_of(rig, web)['id']
            must_put(rig, 'group=blue', vm='web')
            if vm_of(rig, web)['id'] != now:
                raise Failed('attached anew without a need')
            restart(rig)
            must_be(rig, 'group', 'set:blue', 'set', vm='web')
            wait('folded', is_folded(web), 60)
            done = cli(rig, 'policy', 'set', 'web', 'group=', 'share=false')
            if done.returncode != 0 or 'share' not in done.stdout:
                raise Failed(f'{done}')
            if not group_of('web').startswith('vm:'):
                raise Failed(f'it shares with nobody, and its group is {group_of("web")}')
            web.check()
            must_put(rig, 'share=', vm='web')
            if group_of('web') != owners:
                raise Failed(f'its group is {group_of("web")}')
            wait('folded again', is_folded(web), 60)
            must_succeed('pause', rig.request('pause', 30, vm='web'))
            must_put(rig, 'group=green', vm='web')
            must_be(rig, 'group', 'set:green', 'set', vm='web')
            wait_vm(rig, web, 'paused')
            web.check()
            db.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def together(rig):
    """Pairs of keys, set from several clients at once: no half of one and half of another."""
    stop = threading.Event()
    torn = []

    def setter(threads):
        while not stop.is_set():
            put(rig, f'scan.cpu={threads - 0.5}', f'scan.threads={threads}')

    def reader():
        while not stop.is_set():
            rows = keys_of(rig)
            if float(rows['scan.cpu']['value']) != int(rows['scan.threads']['value']) - 0.5:
                torn.append(rows)

    must_put(rig, 'scan.cpu=0.5', 'scan.threads=1')
    workers = [threading.Thread(target=setter, args=[n]) for n in (1, 2, 3)]
    workers.append(threading.Thread(target=reader))
    for worker in workers:
        worker.start()
    time.sleep(2)
    stop.set()
    for worker in workers:
        worker.join()
    if torn:
        raise Failed(f'torn: {torn[0]}')


def scan_threads(rig):
    names = []
    for task in os.listdir(f'/proc/{rig.daemon.pid}/task'):
        try:
            with open(f'/proc/{rig.daemon.pid}/task/{task}/comm', encoding='ascii') as file:
                names.append(file.read().strip())
        except OSError:  # it has ended
            pass
    return sum(name.startswith('rf') and name.endswith('-fold') for name in names)


def of_host():
    """All or nothing, who may, two at once, and what is set holds after a restart."""
    rig = Rig(seed=23)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            before = keys_of(rig)
            must_refuse(rig, 'fold.passes: 99 is not allowed', 'fold.lz4=false', 'fold.passes=99')
            must_refuse(rig, 'unknown key', 'fold.lz4=false', 'fold.pases=2')
            must_refuse(rig, 'changes only at a start', 'fold.lz4=false', 'runtime_dir=/run/mine')
            must_refuse(rig, 'no assignment', 'fold.lz4=false', 'fold.passes')
            must_refuse(rig, 'given twice', 'fold.passes=2', 'fold.passes=3')
            must_refuse(rig, 'cores need as many threads', 'scan.cpu=3')
            as_nobody = subprocess.run(
                ['setpriv', f'--reuid={NOBODY}', '--clear-groups', binary('RAMFOLD_CLI'), 'policy',
                 'set', 'fold.lz4=false', '--socket', f'{rig.dir}/control.sock'],
                capture_output=True, text=True, check=False, timeout=60 * slower())
            if as_nobody.returncode == 0:
                raise Failed(f'anybody may: {as_nobody}')
            if keys_of(rig) != before:
                raise Failed(f'something has changed: {keys_of(rig)}')
            done = cli(rig, 'policy', 'set', 'scan.threads=3', 'scan.cpu=2')
            if done.returncode != 0 or 'scan.threads' not in done.stdout:
                raise Failed(f'{done}')
            wait('three threads scan', lambda: scan_threads(rig) == 3, 30)
            must_put(rig, 'scan.threads=1', 'scan.cpu=0.75')
            wait('one thread scans', lambda: scan_threads(rig) == 1, 30)
            together(rig)
            must_put(rig, 'scan.cpu=0.75', 'scan.threads=1', 'fold.backoff_seconds_max=60')
            restart(rig)
            must_be(rig, 'scan.cpu', '0.75', 'set')
            must_be(rig, 'fold.backoff_seconds_max', '60', 'set')
            must_put(rig, 'log_level=error')
            rig.kill_daemon()
            before_start = os.path.getsize(f'{rig.dir}/daemon.log')
            rig.start_daemon()
            wait('it answers', rig.snapshot, 30)
            with open(f'{rig.dir}/daemon.log', encoding='utf-8') as log:
                log.seek(before_start)
                if ' info ' in (told := log.read()):
                    raise Failed(f'log_level=error holds at a start, and: {told}')
            must_put(rig, 'fold.backoff_seconds_max=', 'scan.cpu=', 'log_level=')
            must_be(rig, 'fold.backoff_seconds_max', '7200', 'default')
            must_be(rig, 'scan.cpu', '1', 'file')
            if cli(rig, 'policy', 'get').stdout.count('\n') != len(before) + 1:
                raise Failed('a line for each key')
            web.check()
            wait('folded again', is_folded(web), 60)
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def version():
    """Where another version is installed, a reload makes way for it; also while ramfold is off."""
    rig = Rig(seed=24, daemon='RAMFOLDD_COPY')
    directory = tempfile.mkdtemp(prefix='rf-version.')
    copy = f'{directory}/ramfoldd'
    os.environ['RAMFOLDD_COPY'] = copy

    def install():
        shutil.copy(binary('RAMFOLDD'), copy + '.new')
        os.replace(copy + '.new', copy)

    try:
        install()
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            install()
            if (status := rig.stop_daemon(how=signal.SIGHUP)) != 0:
                raise Failed(f'it ended with {status}')
            rig.start_daemon()
            wait('folded again', is_folded(web), 60)
            must_succeed('off', rig.request('off', 60))
            install()
            if (status := rig.stop_daemon(how=signal.SIGHUP)) != 0:
                raise Failed(f'off, it ended with {status}: its unit would not start it')
            rig.start_daemon()
            wait('it is off again',
                 lambda: (s := rig.snapshot()) and s['host']['state'] == 'off', 30)
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    sys.exit(run_named({'vm': vm, 'group': group, 'reload': reload, 'set': of_host,
                        'version': version}))
