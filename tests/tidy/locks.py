#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""clang's thread-safety analysis over src: locks.py BUILD, or locks.py --self-test.

Checks what base/thread_annotations.hpp lets a declaration say: which mutex guards a member, which
mutex the caller of a function holds or does not hold, and which of two mutexes is locked first.
BUILD is a build directory: its compile_commands.json says how a file is compiled. Exits 77 when
clang++-19 is missing.

To look at all of src would take minutes. So clang looks only at files that have to do with a lock:
those that name a mutex, or a member or function that a file included by them annotates. Headers
that many of these include are compiled once for all of them.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/tidy/fixtures/locks"
CLANG = shutil.which("clang++-19")
WARNINGS = ["-Wno-everything", "-Wthread-safety", "-Wthread-safety-beta", "-Werror"]
SHARED_FROM = 8  # as many files include a header: it is compiled once for all
ANNOTATIONS = "src/base/thread_annotations.hpp"
LOCK_WORDS = {"Mutex", "MutexLock", "CondVar"}


class Sources:
    """What the files of a source tree say. `folders`: where includes are looked for."""

    def __init__(self, folders: list[pathlib.Path]):
        self.folders = folders
        self.texts: dict[pathlib.Path, str] = {}
        self.closures: dict[pathlib.Path, set[pathlib.Path]] = {}
        self.annotated: dict[pathlib.Path, set[str]] = {}

    def text(self, path: pathlib.Path) -> str:
        """Without comments; nothing of a file that defines the annotations themselves."""
        if path not in self.texts:
            own = path != ROOT / ANNOTATIONS
            self.texts[path] = re.sub(r"//.*|/\*.*?\*/", "", path.read_text()) if own else ""
        return self.texts[path]

    def closure(self, path: pathlib.Path) -> set[pathlib.Path]:
        """The file and all of ours that it includes."""
        if path not in self.closures:
            self.closures[path] = found = {path}
            for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
                header = next((f / name for f in self.folders if (f / name).exists()), None)
                if header is not None:
                    found |= self.closure(header)
        return self.closures[path]

    def names(self, path: pathlib.Path) -> set[str]:
        """The members and functions that this file annotates."""
        if path not in self.annotated:
            found = self.annotated[path] = set()
            text = self.text(path)
            for match in re.finditer(r"\b(GUARDED_BY|REQUIRES|EXCLUDES|ACQUIRE|RELEASE)\(", text):
                before = re.split(r"[;{}]|\b(?:public|private):", text[:match.start()])[-1]
                if match[1] == "GUARDED_BY":
                    found |= set(re.findall(r"(\w+)\s*$", before))
                else:
                    found |= set(re.findall(r"(\w+)\s*\(", before)[:1])
        return self.annotated[path]

    def has_locks(self, path: pathlib.Path) -> bool:
        words = set(re.findall(r"\w+", self.text(path)))
        return bool(words & LOCK_WORDS) or any(words & self.names(f) for f in self.closure(path))


class Unit:
    """A file, and how clang compiles it: what gcc alone understands is left out."""

    def __init__(self, path: pathlib.Path, folder: str, command: list[str]):
        self.path = path
        self.folder = folder
        self.includes = [a for a in command if a.startswith(("-I", "-isystem"))]
        self.options = sorted(a for a in command if a.startswith(("-D", "-U", "-m", "-std=")))


def units_of(build: pathlib.Path, source: pathlib.Path) -> list[Unit]:
    units: dict[pathlib.Path, Unit] = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(os.path.normpath(os.path.join(entry["directory"], entry["file"])))
        # Tests compile some files of src once more, after the targets of src.
        if path.suffix == ".cpp" and source in path.parents and path not in units:
            units[path] = Unit(path, entry["directory"], shlex.split(entry["command"]))
    return list(units.values())


def chosen(units: list[Unit], sources: Sources) -> list[Unit]:
    result = [unit for unit in units if sources.has_locks(unit.path)]
    seen = {file for unit in result for file in sources.closure(unit.path)}
    # A header with locks in functions of its own, which none of these includes.
    for unit in units:
        if any(sources.has_locks(file) for file in sources.closure(unit.path) - seen):
            result.append(unit)
            seen |= sources.closure(unit.path)
    return result


def clang(unit: Unit, arguments: list[str]) -> str:
    """What clang says; nothing: all is well."""
    done = subprocess.run([CLANG, *WARNINGS, *unit.options, *unit.includes, *arguments],
                          cwd=unit.folder, capture_output=True, text=True, check=False)
    return done.stderr if done.returncode != 0 else ""


def check(units: list[Unit], sources: Sources, shared_from: int = SHARED_FROM) -> list[str]:
    found = []
    alike: dict[tuple[str, ...], list[Unit]] = collections.defaultdict(list)
    for unit in chosen(units, sources):
        alike[tuple(unit.options)].append(unit)
    with (tempfile.TemporaryDirectory() as scratch,
          concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool):
        for number, group in enumerate(alike.values()):
            users = collections.Counter(file for u in group for file in sources.closure(u.path))
            shared = sorted(file for file, count in users.items()
                            if count >= shared_from and file.suffix == ".hpp")
            prefix: list[str] = []
            if shared:
                header = pathlib.Path(scratch, f"{number}.hpp")
                header.write_text("".join(f'#include "{file}"\n' for file in shared))
                whole = Unit(header, group[0].folder, [])
                whole.options = group[0].options
                whole.includes = list(dict.fromkeys(i for unit in group for i in unit.includes))
                prefix = ["-include-pch", f"{header}.pch"]
                said = clang(whole, ["-x", "c++-header", str(header), "-o", f"{header}.pch"])
                if said:
                    found.append(said)
                    prefix = []
            said = pool.map(lambda u, p=prefix: clang(u, [*p, "-fsyntax-only", str(u.path)]), group)
            found += [text for text in said if text]
    return found


def self_test() -> int:
    """clang says of each fixture what its `// expect:` lines say, and of the others nothing."""
    folders = [FIXTURES, ROOT / "src"]
    command = ["-std=c++23", *(f"-I{folder}" for folder in folders)]
    units = [Unit(path, str(ROOT), command) for path in sorted(FIXTURES.glob("*.cpp"))]
    sources = Sources(folders)
    expected = {(path.name, text) for path in FIXTURES.iterdir()
                for text in re.findall(r"^// expect: (.*)", path.read_text(), re.M)}
    failures = 0

    def try_out(of: list[Unit], wanted: set[tuple[str, str]], **how: int) -> None:
        nonlocal failures
        said = "\n".join(check(of, sources, **how))
        found = {(pathlib.Path(file).name, text) for file, text in
                 re.findall(r"^([^:\s]+):\d+:\d+: error: (.*?)(?: \[|$)", said, re.M)}
        for kind, surprises in (("not said", wanted - found), ("not expected", found - wanted)):
            for name, text in sorted(surprises):
                print(f"{name}: {kind}: {text}")
                failures += 1

    try_out(units, expected)
    # Also where the header is compiled once for all.
    alone = [unit for unit in units if unit.path.name == "in_a_header.cpp"]
    try_out(alone, {one for one in expected if one[0] == "inline.hpp"}, shared_from=1)
    print(f"{len(units)} fixtures, {len(expected)} errors expected, {failures} surprises")
    return 1 if failures or not expected else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("build", nargs="?", type=pathlib.Path, default=ROOT / "build")
    arguments = parser.parse_args()
    if CLANG is None:
        print("clang++-19 is missing: scripts/deps.sh test")
        return 77
    if arguments.self_test:
        return self_test()
    units = units_of(arguments.build, ROOT / "src")
    sources = Sources([ROOT / "src"])
    found = check(units, sources)
    print("".join(found), end="")
    print(f"{len(chosen(units, sources))} of {len(units)} files, {len(found)} with errors")
    return 1 if found or not units else 0


if __name__ == "__main__":
    sys.exit(main())
