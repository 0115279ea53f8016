#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""README, guide, man pages and units name the paths at which things are installed by default.

installed_paths.py SOURCE_ROOT BUILD_ROOT; exits 77 where this build has another prefix."""
import json
import pathlib
import re
import subprocess
import sys

DOCUMENTS = ('README.md', 'docs/operators-guide.md', 'docs/man/ramfold.1.scd',
             'docs/man/ramfold.toml.5.scd', 'docs/man/ramfoldd.8.scd')
# A path below /usr that has our name in it.
OURS = re.compile(r'/usr/[\w./+-]*ramfold[\w./+-]*')
INSTALLED_ALWAYS = ('bin/ramfold', 'bin/ramfold-qemu', 'sbin/ramfoldd',
                    'libexec/ramfold/ramfold-keeper', 'lib/systemd/system/ramfold.service',
                    'lib/systemd/system/ramfold-keeper.service',
                    'share/doc/ramfold/examples/ramfold.toml')


def introspect(build, what):
    return json.loads(subprocess.run(['meson', 'introspect', what, build], check=True,
                                     stdout=subprocess.PIPE, text=True).stdout)


def main():
    source, build = sys.argv[1:]
    options = {o['name']: o['value'] for o in introspect(build, '--buildoptions')}
    if options['prefix'] != '/usr/local':
        print('skipped: this build has another prefix than the default')
        sys.exit(77)
    installed = set(introspect(build, '--installed').values())
    bad = [f'not installed: {path}' for path in INSTALLED_ALWAYS
           if f'/usr/local/{path}' not in installed]
    for document in DOCUMENTS:
        for path in OURS.findall(pathlib.Path(source, document).read_text()):
            if path.rstrip('._') not in installed:
                bad.append(f'{document}: {path} is not where anything is installed')
    for unit in ('ramfold.service', 'ramfold-keeper.service'):
        text = pathlib.Path(build, 'systemd', unit).read_text()
        for path in OURS.findall(text):
            if path not in installed:
                bad.append(f'{unit}: {path} is not where anything is installed')
    print('\n'.join(bad) or f'{len(installed)} installed files, and every path that is named')
    sys.exit(bool(bad))


if __name__ == '__main__':
    main()
