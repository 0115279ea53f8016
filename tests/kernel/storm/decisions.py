#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""These outlive a daemon: the operator's decisions, the last good configuration, and the store and
VMs with a keeper that is slow to answer.

decisions.py kept|half-done|full-cgroup|told-to-end|unreadable|broken|keeper. Exits 77 where a
userfaultfd cannot be driven from outside."""
import os
import signal
import sys
import threading
import time

from off import MIB, MemoryGroup, QuietGuest, cli, must_succeed, wait
from rig import Failed, Rig, binary, run_named, say
from patience import deadline

FOLDED = 3000  # of 4096 pages
SILENT_S = 12  # longer than an answer of the keeper is waited for


def answers(rig):
    """The first answers of a daemon that has just been started, until it is no longer starting:
    what they say must be so."""
    seen = []
    end = deadline(60)
    while time.monotonic() < end:
        snapshot = rig.snapshot()
        if not snapshot:
            time.sleep(0.005)
            continue
        host = snapshot['host']
        codes = [reason['code'] for reason in host['reasons']]
        seen.append((host['state'], codes))
        if 'self-test' in codes:
            raise Failed(f'a kernel fact is said not to hold: {seen}')
        if host['state'] == 'starting' and not codes:
            raise Failed(f'starting, and no reason: {seen}')
        if host['state'] == 'folding' and codes:
            raise Failed(f'folding, with a reason not to: {seen}')
        if host['state'] != 'starting':
            return snapshot
    raise Failed(f'starting for ever: {seen[-1:]}')


def restart(rig):
    rig.kill_daemon()
    rig.start_daemon()
    return answers(rig)


def vm_of(rig, guest):
    return next((vm for vm in (rig.snapshot() or {'vms': []})['vms']
                 if str(vm['pid']) == guest.pid), None)


def wait_vm(rig, guest, state):
    return wait(f'vm {guest.pid} {state}',
                lambda: (vm := vm_of(rig, guest)) and vm['state'] == state and vm, 60)


def is_folded(guest):
    return lambda: (v := guest.view()) and v['saved'].get('folded_pages', 0) >= FOLDED


def wait_folded(*guests):
    wait('all are folded', lambda: all(is_folded(guest)() for guest in guests), 60)


def stays_unfolded(rig, guest):
    time.sleep(1.5)
    if (vm := vm_of(rig, guest)) is None or vm['saved'].get('folded_pages', 0) != 0:
        raise Failed(f'folded against what was decided: {vm}')


def sum_of(text):
    """FNV-1a."""
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = ((value ^ byte) * 0x100000001b3) % (1 << 64)
    return value


def write_decisions(rig, *lines):
    text = ''.join(line + '\n' for line in ('ramfold-decisions 1', *lines))
    with open(f'{rig.dir}/state/decisions', 'w', encoding='ascii') as file:
        file.write(f'{text}end {sum_of(text):016x}\n')


def kept():
    """pause VM, pause, detach VM and off hold across kills and the VM's own end, until they are
    taken back."""
    rig = Rig(seed=11)
    try:
        rig.start_daemon()
        answers(rig)
        with QuietGuest(rig, 16, '-name', 'other') as other:
            with QuietGuest(rig, 16, '-name', 'web') as web:
                wait_folded(web, other)
                must_succeed('pause web', rig.request('pause', vm='web'))
            # Started anew, as after a reboot, by a daemon that is started anew.
            restart(rig)
            with QuietGuest(rig, 16, '-name', 'web') as web:
                wait_vm(rig, web, 'paused')
                stays_unfolded(rig, web)
                wait('the other is folded', is_folded(other), 60)
                must_succeed('resume web', rig.request('resume', vm='web'))
                wait('folded again', is_folded(web), 60)
                say('pause VM lasts')

                must_succeed('pause', rig.request('pause'))
                if (state := restart(rig)['host']['state']) != 'paused':
                    raise Failed(f'paused, and after a kill {state}')
                must_succeed('resume', rig.request('resume'))
                if (state := restart(rig)['host']['state']) == 'paused':
                    raise Failed('paused again, though it was resumed')
                say('pause lasts')

                must_succeed('detach', rig.request('detach', 60, vm='web'))
                wait_vm(rig, web, 'detached')
                restart(rig)
                wait_vm(rig, web, 'detached')
                web.check()
            with QuietGuest(rig, 16, '-name', 'web') as web:
                wait_vm(rig, web, 'detached')
                must_succeed('attach', rig.request('attach', vm='web'))
                wait('folded again', is_folded(web), 60)
                restart(rig)
                wait('and still', is_folded(web), 60)
                say('detach VM lasts')

                must_succeed('detach', rig.request('detach', 60, vm='web'))
                must_succeed('off', rig.request('off', 60))
                if (status := rig.stop_daemon()) != 10:
                    raise Failed(f'off, and it ends with {status}')
                rig.start_daemon()
                if (state := answers(rig)['host']['state']) not in ('off', 'unfolding'):
                    raise Failed(f'off, and after a start {state}')
                wait('it is off', lambda: rig.snapshot()['host']['state'] == 'off', 30)
                stays_unfolded(rig, other)
                must_succeed('resume', rig.request('resume'))
                wait('folded again', is_folded(other), 60)
                wait_vm(rig, web, 'detached')
                say('off lasts, and its end is not that of a detach')
                web.check()
            other.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def half_done():
    """A daemon is killed between what was decided and what follows: the next one goes on."""
    rig = Rig(seed=12)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web, \
                QuietGuest(rig, 16, '-name', 'other') as other:
            wait_folded(web, other)
            rig.kill_daemon()
            write_decisions(rig, f'vm detached 1764487258 uid={os.getuid()} uuid= name=web')
            rig.start_daemon()
            answers(rig)
            wait_vm(rig, web, 'detached')
            wait('the other is folded', is_folded(other), 60)
            rig.kill_daemon()
            write_decisions(rig, 'off 1764487258')
            rig.start_daemon()
            if 'off' not in [reason['code'] for reason in answers(rig)['host']['reasons']]:
                raise Failed('off, and not told')
            wait('it is off', lambda: rig.snapshot()['host']['state'] == 'off', 60)
            if rig.snapshot()['host']['keeper']['descriptors'] != 0:
                raise Failed('off, and the keeper holds something')
            web.check()
            other.check()
            if (status := rig.stop_daemon()) != 10:
                raise Failed(f'off, and it ends with {status}')
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def full_cgroup():
    """An `off` that was decided waits until a cgroup has room for all of its VMs: without room for
    both, the first one must not fill it."""
    group = MemoryGroup()
    rig = Rig(seed=13)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web, \
                QuietGuest(rig, 16, '-name', 'other') as other:
            wait_folded(web, other)
            rig.kill_daemon()
            write_decisions(rig, 'off 1764487258')
            for guest in (web, other):
                group.add(guest.pid)
            group.limit(24 * MIB)
            rig.start_daemon()
            text = wait('why it waits', lambda: next(
                (reason['text'] for reason in answers(rig)['host']['reasons']
                 if reason['code'] == 'off' and group.path in reason['text']), None), 60)
            say(text)
            if not is_folded(web)() or not is_folded(other)():
                raise Failed(f'one of two came back: {web.view()}, {other.view()}')
            group.limit(128 * MIB)
            wait('it is off', lambda: rig.snapshot()['host']['state'] == 'off', 60)
            web.check()
            other.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)
        group.remove()


def told_to_end():
    """Told to end in the middle of `off` and of `detach`, the daemon ends and leaves the rest to
    the next one, for which what was decided holds."""
    rig = Rig(seed=16)
    rig.daemon_preloads = [binary('RAMFOLD_SLOWS_COPIES')]
    slow = f'{rig.dir}/slow'
    os.environ['RAMFOLD_COPIES_SLOW'] = slow
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            for op, fields, back in (('detach', {'vm': 'web'}, 'attach'), ('off', {}, 'resume')):
                all_of_it = wait('it is folded', lambda: (v := web.view()) and
                                 (n := v['saved'].get('folded_pages', 0)) >= FOLDED and n, 60)
                with open(slow, 'w', encoding='ascii'):
                    pass
                answer = []
                asks = threading.Thread(
                    target=lambda: answer.append(rig.request(op, 120, **fields)))
                asks.start()
                wait('it is begun', lambda: (v := web.view()) and
                     0 < v['saved'].get('folded_pages', 0) < all_of_it, 60)
                # Status 10 would be that of a daemon that waited until everything was back.
                if (status := rig.stop_daemon(60)) != 0:
                    raise Failed(f'in the middle of {op} it ended with {status}')
                asks.join()
                if answer[0] and 'next daemon' not in answer[0].get('error', {}).get('remedy', ''):
                    raise Failed(f'{op}: {answer}')
                rig.start_daemon()
                left = wait('the rest is folded', lambda: (v := web.view()) and
                            v['saved'].get('folded_pages', 0), 60)
                say(f'{op}: ended with {left} of {all_of_it} pages still folded')
                os.unlink(slow)
                if op == 'off':
                    wait('it is off', lambda: rig.snapshot()['host']['state'] == 'off', 60)
                else:
                    wait_vm(rig, web, 'detached')
                stays_unfolded(rig, web)
                web.check()
                must_succeed(back, rig.request(back, **fields))
            wait('folded again', is_folded(web), 60)
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def unreadable():
    """A file of decisions that is torn is told and folds nothing; one that cannot be written does
    not undo what stops, and does not let go on what was stopped."""
    rig = Rig(seed=13)
    path = f'{rig.dir}/state/decisions'
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            must_succeed('off', rig.request('off', 60))
            rig.kill_daemon()
            with open(path, 'r+b') as file:
                file.truncate(os.path.getsize(path) - 3)
            rig.start_daemon()
            host = answers(rig)['host']
            if host['state'] != 'observe-only' or host['reasons'][0]['code'] != 'state':
                raise Failed(f'what was decided is not known: {host["state"]}, {host["reasons"]}')
            if 'daemon.state' not in cli(rig, 'doctor').stdout:
                raise Failed('doctor does not say it')
            wait('its agent is there', lambda: vm_of(rig, web), 30)
            stays_unfolded(rig, web)
            must_succeed('resume', rig.request('resume'))
            wait('folded again', is_folded(web), 60)
            say('a torn file folds nothing until the operator begins anew')

            os.mkdir(f'{path}.new')
            answer = rig.request('pause')
            if 'error' not in answer or 'until this daemon ends' not in answer['error']['text']:
                raise Failed(f'not written, and not told: {answer}')
            if rig.snapshot()['host']['state'] != 'paused':
                raise Failed('not written is no reason to go on')
            wait('it is told', lambda: rig.snapshot()['host']['notices'], 10)
            if 'error' not in rig.request('resume') or rig.snapshot()['host']['state'] != 'paused':
                raise Failed('resumed, which the next daemon would not know')
            os.rmdir(f'{path}.new')
            wait('it is written later', lambda: not rig.snapshot()['host']['notices'], 30)
            if restart(rig)['host']['state'] != 'paused':
                raise Failed('it was written, and does not hold')
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def broken():
    """A configuration that breaks: the last good one is gone by; without one nothing is folded, and
    what is folded is served where it was."""
    rig = Rig(seed=14)
    config = f'{rig.dir}/config.toml'
    copy = f'{rig.dir}/state/ramfold.toml.good'
    with open(config, encoding='ascii') as file:
        good = file.read()
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            rig.kill_daemon()
            with open(config, 'w', encoding='ascii') as file:
                file.write(good.replace('[scan]', '[scan\n'))
            rig.start_daemon()
            host = answers(rig)['host']
            if [notice['code'] for notice in host['notices']] != ['config']:
                raise Failed(f'broken, and not told: {host}')
            if f'{config}:' not in host['notices'][0]['text']:
                raise Failed(f'which line? {host["notices"]}')
            web.check()
            wait('folded by the last good one', is_folded(web), 60)
            say(host['notices'][0]['text'])

            rig.kill_daemon()
            os.unlink(copy)
            rig.start_daemon()
            host = answers(rig)['host']
            reason = host['reasons'][0]
            if host['state'] != 'observe-only' or reason['code'] != 'config' \
                    or f'{config}:' not in reason['text']:
                raise Failed(f'nothing is known, and: {host["state"]}, {host["reasons"]}')
            say(reason['text'])
            web.check()
            refused = rig.request('resume')
            if 'error' not in refused or f'{config}:' not in refused['error']['text']:
                raise Failed(f'resumed: {refused}')
            doctor = cli(rig, 'doctor')
            if doctor.returncode == 0 or 'daemon.config' not in doctor.stdout:
                raise Failed(f'doctor: {doctor}')
            wait('all of it is back, by its own reads',
                 lambda: vm_of(rig, web)['saved'].get('folded_pages', 0) == 0, 30)
            stays_unfolded(rig, web)
            if os.path.exists(copy):
                raise Failed('a copy of a broken file')
            rig.kill_daemon()
            with open(config, 'w', encoding='ascii') as file:
                file.write(good)
            rig.start_daemon()
            wait('folded once it is mended', is_folded(web), 60)
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


def keeper():
    """A keeper that is slow to answer is waited for: what it holds is taken over."""
    rig = Rig(seed=15)
    try:
        rig.start_daemon()
        with QuietGuest(rig, 16, '-name', 'web') as web:
            wait('it is folded', is_folded(web), 60)
            rig.kill_daemon()
            rig.keeper.send_signal(signal.SIGSTOP)
            rig.start_daemon()
            time.sleep(SILENT_S)
            if rig.daemon_died() or rig.snapshot():
                raise Failed('it did not wait for what the keeper holds')
            rig.keeper.send_signal(signal.SIGCONT)
            snapshot = answers(rig)
            if snapshot['host']['restarts'] != 1 or len(snapshot['vms']) != 1:
                raise Failed(f'not taken over: {snapshot}')
            with open(f'{rig.dir}/daemon.log', encoding='utf-8') as file:
                if 'does not answer yet' not in file.read():
                    raise Failed('it waited without a word')
            web.check()
            wait('folded again', is_folded(web), 60)
            # Every daemon that takes VMs over counts, not only the one that runs.
            for times in (2, 3):
                if (count := restart(rig)['host']['restarts']) != times:
                    raise Failed(f'killed {times} times, and {count} are told')
            web.check()
    finally:
        rig.close(keep=sys.exc_info()[0] is not None)


if __name__ == '__main__':
    sys.exit(run_named({'kept': kept, 'half-done': half_done,
                        'full-cgroup': full_cgroup, 'told-to-end': told_to_end,
                        'unreadable': unreadable, 'broken': broken, 'keeper': keeper}))
