# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared by the tests of this directory: the VMs of scripts/vm.py and a command line.

Every test takes the same options, so that it also runs with a daemon at work:

    --wrapper 'ramfold exec --'   a command put before QEMU's
    --env NAME=VALUE              a variable for QEMU, repeatable
    --run-dir DIR                 keep the VMs' logs there

Tests that start a daemon of their own take --build DIR and --run-dir DIR instead.
"""
import argparse
import os
import pathlib
import shlex
import shutil
import sys

sys.dont_write_bytecode = True  # nothing appears in the source tree
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import kernel_can  # noqa: E402
import ramfold_rig  # noqa: E402
import vm  # noqa: E402

NOBODY = 65534


def parser(description):
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--wrapper", type=shlex.split, default=[])
    options.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    options.add_argument("--run-dir")
    return options


def rig_parser(description):
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--build", default=os.environ.get("RAMFOLD_BUILD", "build"))
    options.add_argument("--run-dir")
    return options


def rig_of(options, run_dir, config=None):
    """A daemon for this test; skips where it cannot fold."""
    if os.geteuid() != 0:
        vm.skip("folding needs root")
    if not os.path.exists("/dev/userfaultfd"):
        vm.skip("there is no /dev/userfaultfd")
    if refusal := kernel_can.no_bpf():
        vm.skip(f"the gate cannot ask the kernel here: {refusal}")
    return ramfold_rig.Rig(options.build, run_dir, config)


def vm_options(options):
    """The keyword arguments for vm.Vm that the command line asked for."""
    return {"wrapper": options.wrapper, "env": dict(text.split("=", 1) for text in options.env)}


def for_nobody(guest, rig, run_dir):
    """A guest, and the agent, where an unprivileged user can read them: its wrapper and its env."""
    home = run_dir / "nobody"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    files = {name: shutil.copy(path, home / name) for name, path in
             (("vmlinuz", guest.kernel), ("initrd.gz", guest.initrd), ("agent.so", rig.agent))}
    for path in files.values():
        os.chmod(path, 0o755)
    os.chmod(run_dir, 0o755)
    own = vm.Guest(kind=guest.kind, kernel=str(files["vmlinuz"]), initrd=str(files["initrd.gz"]),
                   append=guest.append)
    wrapper = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--",
               "setpriv", "--pdeathsig", "KILL", "--"]  # a change of the user has cleared it
    return own, home, wrapper, {**rig.qemu_env, "LD_PRELOAD": str(files["agent.so"])}


def run(test, options):
    """Runs test(run_dir, options) and turns what went wrong into the exit status."""
    if shutil.which(vm.QEMU) is None:
        vm.skip(f"{vm.QEMU} is not installed (scripts/guests.sh deps)")
    vm.exit_on_signals()
    try:
        with vm.RunDir(options.run_dir) as run_dir:
            test(run_dir, options)
    except vm.VmError as problem:
        sys.exit(f"FAILED: {problem}")
    print("ok")
