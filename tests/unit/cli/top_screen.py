#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""top_screen.py RAMFOLD: `ramfold top` on a pseudo-terminal, with a daemon that this script plays.

Keys, a terminal that changes its size, VMs that come and go, a daemon that ends and comes back."""
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / 'scripts'))
from patience import deadline, slower  # noqa: E402

ESCAPE = re.compile(r'\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[()][0-9A-Za-z]|[=>78])')


class Daemon:
    """Answers each request with a snapshot of `vms`."""

    def __init__(self, path):
        self.path = path
        self.vms = ['web', 'db']
        self.began = time.monotonic()
        self.connections = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection, connection.makefile('r') as requests:
            for line in requests:
                uptime = time.monotonic() - self.began
                vms = [{'id': i + 1, 'name': name, 'state': 'folding', 'vcpus': 1,
                        'stalled_seconds': uptime * (i + 1) / 100, 'stall_budget': 0.01,
                        'pages': {'resident': 1000}} for i, name in enumerate(self.vms)]
                request = json.loads(line)
                answer = {'ramfold': request['ramfold'], 'id': request['id'], 'snapshot': {
                    'host': {'state': 'folding', 'uptime_seconds': uptime}, 'vms': vms}}
                try:
                    connection.sendall((json.dumps(answer) + '\n').encode())
                except OSError:
                    return

    def end(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        os.unlink(self.path)


class Terminal:
    def __init__(self, command, environment):
        self.master, slave = pty.openpty()
        self.resize(24, 80)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                                        env=environment, start_new_session=True)
        os.close(slave)
        self.text = ''

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
        if hasattr(self, 'process'):
            self.process.send_signal(signal.SIGWINCH)

    def press(self, keys):
        self.text = ''
        os.write(self.master, keys.encode())

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.text += os.read(self.master, 65536).decode(errors='replace')
            except OSError:  # the other side is closed
                time.sleep(0.01)

    def shows(self, *parts):
        """Everything that is drawn from now on, until each of `parts` was part of it."""
        end = deadline(20)
        while True:
            seen = ESCAPE.sub(' ', self.text)
            if all(part in seen for part in parts):
                return
            if time.monotonic() >= end or self.process.poll() is not None:
                sys.exit(f'FAIL: not shown: {parts}; the terminal got:\n{self.text!r}')
            self.read(0.2)

    def ends(self):
        end = deadline(20)
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.1)
        self.read(0)
        return self.process.poll()


def main():
    with tempfile.TemporaryDirectory(prefix='ramfold-top.') as directory:
        path = directory + '/control.sock'
        environment = {'TERM': 'xterm', 'PATH': os.environ['PATH'], 'RAMFOLD_SOCKET': path}
        command = [sys.argv[1], 'top', '--delay', '0.2']

        daemon = Daemon(path)
        terminal = Terminal(command, environment)
        terminal.shows('ramfold top - folding, 2 VMs', 'NET SAVED*', 'web', 'db', '1.00 %')
        print('ok: rows and rates')
        terminal.press('h')
        terminal.shows('sort by:')
        terminal.press('h')
        terminal.shows('q quit')
        terminal.press('S')
        terminal.shows('STALL*')
        terminal.press('R')
        terminal.press('>')
        terminal.shows('REFAULT/s*')
        print('ok: keys')
        terminal.text = ''
        daemon.vms = ['web', 'new\x1b[31m-one']
        terminal.shows('new?[31m')
        print('ok: a VM that comes, with a name that is not shown as it is')
        terminal.text = ''
        terminal.resize(30, 50)
        terminal.shows('NET SAVED')
        if 'STATE' in terminal.text:
            sys.exit('FAIL: a terminal of 50 columns shows STATE')
        terminal.resize(24, 100)
        terminal.shows('STATE')
        terminal.resize(2, 20)
        terminal.resize(24, 80)
        print('ok: the terminal changes its size')
        terminal.text = ''
        daemon.end()
        terminal.shows('trying again')
        daemon = Daemon(path)
        terminal.text = ''
        terminal.shows('connected to the daemon again')
        print('ok: the daemon ends and comes back')
        terminal.press('q')
        if (status := terminal.ends()) != 0:
            sys.exit(f'FAIL: q ends it with {status}')
        if '\x1b[?1049l' not in terminal.text:
            sys.exit('FAIL: the terminal is not restored')
        print('ok: q')

        terminal = Terminal(command, environment)
        terminal.shows('web')
        terminal.process.send_signal(signal.SIGTERM)
        terminal.ends()
        if '\x1b[?1049l' not in terminal.text:
            sys.exit('FAIL: the terminal is not restored after SIGTERM')
        print('ok: SIGTERM restores the terminal')

        terminal = Terminal(command + ['-n', '1'], {**environment, 'TERM': 'no-such-terminal'})
        terminal.shows('NET SAVED*', 'web')
        if terminal.ends() != 0:
            sys.exit('FAIL: -n 1 on an unknown terminal')
        print('ok: an unknown terminal gets rows')

        plain = subprocess.run(command + ['-n', '2'], env=environment, capture_output=True,
                               text=True, stdin=subprocess.DEVNULL, timeout=60 * slower())
        if plain.returncode != 0 or plain.stdout.count('NET SAVED*') != 2 or '\x1b' in plain.stdout:
            sys.exit(f'FAIL: without a terminal: {plain}')
        print('ok: without a terminal')
        daemon.end()
        gone = subprocess.run(command, env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60 * slower())
        if gone.returncode != 3 or 'not running' not in gone.stderr:
            sys.exit(f'FAIL: without a daemon: {gone}')
        print('ok: without a daemon')


if __name__ == '__main__':
    main()
