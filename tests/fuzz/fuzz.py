#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds a fuzz target with clang and runs it: fuzz.py NAME SECONDS [--bug N] [--build DIR].

Exits 77 when clang with libFuzzer is missing, 1 when the fuzzer found something. The corpus begins
with one valid message of each type, written here from the protocol's description.
"""
import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLANG = next((c for c in ("clang++-19", "clang++") if shutil.which(c)), None)
FLAGS = ["-std=c++23", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer",
         "-DRAMFOLD_DENSURE=1", "-fsanitize=fuzzer,address,undefined",
         "-fno-sanitize-recover=all", f"-I{ROOT / 'src'}"]

MAGIC = 0x31574652
BLOCKS_MAX = 16
MIB = 1 << 20


def message(kind, body, fds=0, flags=0):
    return bytes([fds]) + struct.pack("<IHHII", MAGIC, kind, flags, 16 + len(body), 1) + body


def offer(blocks):
    packed = b"".join(struct.pack("<QQQQQ", *b) for b in blocks)
    body = struct.pack("<II", len(blocks), 0) + packed.ljust(BLOCKS_MAX * 40, b"\0")
    return message(3, body, 1 + len(blocks))


def offer_seeds():
    base = 0x7F0000000000
    return {
        "hello": message(1, struct.pack("<HHIQ16sII", 1, 1, 1, 7, b"", 0, 0)),
        "offer1": offer([(base, 64 * MIB, 0, 1, 10)]),
        "offer3": offer([(base + i * 64 * MIB, 32 * MIB, i * 32 * MIB, 1, 10) for i in range(3)]),
        "offer16": offer([(base + i * MIB, MIB, 0, 1, 10 + i) for i in range(16)]),
        "ready": message(5, bytes(16)),
        "hold": message(6, struct.pack("<II", 1, 5), flags=1),
        "unfold": message(7, struct.pack("<II", 16, 1)),
        "fenced": message(15, b""),
        "answer": message(17, struct.pack("<IIII", 1, 0, 0, 1)),
        "changed": message(12, struct.pack("<II", 1, 6), flags=1),
        "unknown": message(900, b"later", flags=1),
    }


def patch_seeds():
    """A step of each kind, against noise and against pointers."""
    steps = [b"\xbc\x20\x10\xa6", b"\xbd\x34\x12\x05\x85\xa4", b"\xcd\x03\1\2\3\4\5\6\7",
             b"\xd4hello", b"\xe1\xe7\x20", b"\xd0\0\xef\0\x40",
             b"\xf1\x00\x12\xff\xff\xfe\x10", b"\xa8\xa0\xc1\x10"]
    seeds = {f"step{i}-{kind}": bytes([kind]) + step
             for i, step in enumerate(steps) for kind in (0, 1)}
    return {**seeds, "all": b"\1" + b"".join(steps)}


def mix_seeds():
    """Bytes that go on for a page, against nothing, noise, pointers and one word again."""
    return {f"{kind}-{step}": bytes([kind]) + bytes((i * step + step) % 256 for i in range(length))
            for kind in range(4) for step, length in ((0, 4), (7, 40), (91, 900))}


TARGETS = {
    "offer": {
        "sources": ["tests/fuzz/offer_fuzz.cpp", "src/guest/agent_messages.cpp",
                    "src/daemon/agents/command_channel.cpp", "src/sys/message.cpp",
                    "src/sys/fd.cpp", "src/base/check.cpp", "src/base/lock_order.cpp"],
        "seeds": offer_seeds,
        "max_len": 1024,
    },
    "patch": {
        "sources": ["tests/fuzz/store/patch_fuzz.cpp", "src/store/patch/decode.cpp",
                    "src/store/patch/encode.cpp", "src/base/check.cpp", "src/base/lock_order.cpp"],
        "seeds": patch_seeds,
        "max_len": 4200,
    },
    "mix": {
        "sources": ["tests/fuzz/store/mix_fuzz.cpp", "src/store/mix/decode.cpp",
                    "src/store/mix/encode.cpp", "src/base/check.cpp", "src/base/lock_order.cpp"],
        "seeds": mix_seeds,
        "max_len": 2000,
    },
}


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def build(name, bug, directory):
    """The executable for the target, rebuilt when a source is newer."""
    if CLANG is None:
        skip("clang++-19 is not installed (apt-get install clang-19)")
    target = TARGETS[name]
    binary = directory / f"fuzz_{name}{f'_bug{bug}' if bug else ''}"
    inputs = [*ROOT.glob("src/**/*.[ch]*"), *ROOT.glob("tests/**/*.[ch]pp"),
              *ROOT.glob("tests/fuzz/*.py")]
    newest = max(path.stat().st_mtime for path in inputs)
    if binary.exists() and binary.stat().st_mtime > newest:
        return binary
    command = [CLANG, *FLAGS, f"-DRAMFOLD_SEEDED_BUG={bug}", "-o", str(binary)]
    done = subprocess.run(command + [str(ROOT / s) for s in target["sources"]],
                          capture_output=True, text=True)
    if done.returncode != 0:
        if "libclang_rt.fuzzer" in done.stderr:
            skip("libFuzzer is not installed (apt-get install libclang-rt-19-dev)")
        print(done.stderr, file=sys.stderr)
        sys.exit(2)
    return binary


def run(name, binary, seconds, scratch, seed=1):
    """Runs the fuzzer; returns (what it found or None, executions, coverage, seconds it took)."""
    corpus = scratch / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for label, content in TARGETS[name]["seeds"]().items():
        (corpus / label).write_bytes(content)
    began = time.monotonic()
    done = subprocess.run(
        [str(binary), f"-max_total_time={seconds}", f"-max_len={TARGETS[name]['max_len']}",
         f"-seed={seed}", "-print_final_stats=1", f"-artifact_prefix={scratch}/", str(corpus)],
        capture_output=True, text=True, errors="replace",
        env={**os.environ, "ASAN_OPTIONS": "abort_on_error=0"})
    took = time.monotonic() - began
    executions = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    found = None
    if done.returncode != 0:
        signs = re.findall(r"(?:ERROR: AddressSanitizer: \S+"
                           r"|[^\n]*(?:failed|ENSURE|runtime error)[^\n]*"
                           r"|ERROR: libFuzzer: [^\n]*)", done.stderr)
        found = signs[0].strip() if signs else f"exit {done.returncode}"
    return (found, int(executions.group(1)) if executions else 0,
            int(coverage[-1]) if coverage else 0, took)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=TARGETS)
    arguments.add_argument("seconds", type=int)
    arguments.add_argument("--bug", type=int, default=0)
    arguments.add_argument("--build", type=Path)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="ramfold-fuzz-") as scratch:
        directory = chosen.build or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        binary = build(chosen.name, chosen.bug, directory)
        found, executions, coverage, took = run(chosen.name, binary, chosen.seconds, Path(scratch))
    print(f"{chosen.name}: {executions} inputs in {took:.0f} s, {coverage} edges covered, "
          f"{'found: ' + found if found else 'nothing found'}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
