#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""House rules that a compiler does not check: tidy.py [ROOT], or tidy.py --self-test.

Every rule is a function from a file to complaints. The self-test runs the rules over the small
trees in tests/tidy/fixtures: each tree of `bad` must be reported by the rule it is named after and
by no other, and `good` by none.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

COLUMNS = 100
LINES_ASK = 400
LINES_MAX = 600
FIXTURES = "tests/tidy/fixtures"

# Who may include whom (docs/design.md, "The parts"). `base` is below everybody, `sys` below those
# who need the kernel. guest may include one file of the agent's, the C leaf agent/wire.h.
ARROWS = {
    "base": set(),
    "sys": {"base"},
    "agent": set(),
    "keeper": {"sys", "base"},
    "libvirt": {"sys", "base"},
    "policy": {"base"},
    "classify": {"base"},
    "metrics": {"base"},
    "guest": {"sys", "base"},
    "store": {"sys", "base"},
    "scan": {"guest", "sys", "base"},
    "fault": {"guest", "store", "sys", "base"},
    "fold": {"scan", "classify", "guest", "store", "sys", "base"},
    "control": {"policy", "sys", "base"},
    "estimate": {"store", "sys", "base"},
    "cli": {"control", "estimate", "policy", "sys", "base"},
    "daemon": {"control", "policy", "scan", "fold", "fault", "classify", "guest", "store", "keeper",
               "metrics", "sys", "base"},
}
LEAF = ("guest", "agent/wire.h")
# The same a level below: who may include whom of a folder's own folders. Files that lie in the
# folder itself are named as they are, without their suffix: `log` may be used by every room, and
# `host`, `loop` and `main` put the rooms together.
ROOMS = {
    "agent": {
        "wire": set(),
        "core": {"wire"},
        "preload": {"core", "wire"},
    },
    "daemon": {
        "log": set(),
        "threads": set(),
        "fleet": {"threads"},
        "custody": {"fleet", "threads", "log"},
        "judge": {"fleet", "threads", "log"},
        "work": {"fleet", "threads", "log"},
        "agents": {"custody", "fleet", "threads", "log"},
        "bring_back": {"custody", "fleet", "threads", "log"},
        "report": {"agents", "bring_back", "custody", "judge", "work", "fleet", "threads", "log"},
        "kill_point": set(),
        "loop": {"report", "bring_back", "custody", "judge", "work", "fleet", "threads", "log"},
        "host": {"loop", "report", "agents", "bring_back", "custody", "judge", "work", "fleet",
                 "threads", "log"},
        "main": {"host", "custody", "threads", "log", "kill_point"},
    },
}
GENERATED = {"version.hpp"}  # by meson, at the root of the include path

CODE = {".c", ".h", ".cpp", ".hpp", ".S", ".ld", ".py", ".sh", ".pml"}
C_LIKE = {".c", ".h", ".cpp", ".hpp"}


@dataclasses.dataclass(frozen=True)
class File:
    path: str  # relative to the root, with slashes
    text: str
    root: str

    @property
    def suffix(self) -> str:
        return pathlib.PurePosixPath(self.path).suffix

    @property
    def is_code(self) -> bool:
        return (self.suffix in CODE or self.path.endswith("meson.build")
                or self.text.startswith("#!"))

    @property
    def is_product(self) -> bool:
        return self.path.startswith("src/") and self.suffix in C_LIKE

    def lines(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.text.splitlines(), 1)


@dataclasses.dataclass(frozen=True)
class Complaint:
    rule: str
    path: str
    line: int
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        kind = "error" if self.fatal else "warning"
        return f"{self.path}:{self.line}: {kind}: {self.text} [{self.rule}]"


Rule = Callable[[File], Iterator[tuple[int, str]]]


def code_of(line: str) -> str:
    """A line of C without its strings and its // comment."""
    return re.sub(r'//.*|/\*.*?\*/', "", re.sub(r'"(\\.|[^"\\])*"', '""', line))


def arrows(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_product:
        return
    own = file.path.split("/")[1]
    if own not in ARROWS:
        yield 1, f"src/{own} has no place in the layering"
        return
    for number, line in file.lines():
        found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not found:
            continue
        target = found[1]
        folder = target.split("/")[0]
        if target in GENERATED:
            continue
        if "/" not in target:
            yield number, f'"{target}" is not spelled from src/'
        elif folder != own and folder not in ARROWS[own] and (own, target) != LEAF:
            yield number, f"{own} may not include {target}"


def room_of(path: str) -> str:
    """daemon/work/work.hpp -> work; daemon/host.hpp -> host."""
    return path.split("/")[1].split(".")[0]


def rooms(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_product or file.path.split("/")[1] not in ROOMS:
        return
    folder, own = file.path.split("/")[1], room_of(file.path.removeprefix("src/"))
    if own not in ROOMS[folder]:
        yield 1, f"src/{folder}/{own} has no place among its rooms"
        return
    for number, line in file.lines():
        found = re.match(rf'\s*#\s*include\s+"({folder}/[^"]+)"', line)
        if found and room_of(found[1]) != own and room_of(found[1]) not in ROOMS[folder][own]:
            yield number, f"{folder}/{own} may not include {found[1]}"


def license_line(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_code or not file.text.strip():
        return
    head = "\n".join(file.text.splitlines()[:2])
    if "SPDX-License-Identifier: GPL-2.0-or-later" not in head:
        yield 1, "the first or second line is not the SPDX line"


def banned_headers(file: File) -> Iterator[tuple[int, str]]:
    if file.suffix not in C_LIKE:
        return
    for number, line in file.lines():
        found = re.match(r"\s*#\s*include\s+<(iostream|regex|coroutine|cassert|assert\.h)>", line)
        if found:
            yield number, f"<{found[1]}> is not used here"


def coroutines(file: File) -> Iterator[tuple[int, str]]:
    if file.suffix not in C_LIKE:
        return
    for number, line in file.lines():
        if re.search(r"\bco_(await|yield|return)\b", code_of(line)):
            yield number, "no coroutines"


def bare_assert(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_product:
        return
    for number, line in file.lines():
        if re.search(r"(?<![\w.])assert\s*\(", code_of(line)):
            yield number, "assert() goes away with NDEBUG: ENSURE or DENSURE"


def threads(file: File) -> Iterator[tuple[int, str]]:
    """A start that the kernel refuses must be a value, and std::thread throws."""
    if (not file.is_product or file.suffix not in {".cpp", ".hpp"}
            or file.path.startswith("src/sys/thread.")):
        return
    for number, line in file.lines():
        found = re.search(r"\bstd::(j?thread|async)\b(?!::)|\bthread_pool\b|\bpthread_create\b",
                          code_of(line))
        if found:
            yield number, f"{found[0]}: threads are started with sys::Thread (sys/thread.hpp)"


def locks(file: File) -> Iterator[tuple[int, str]]:
    """clang's analysis knows only mutexes that carry its attributes."""
    if not file.is_product or file.path == "src/base/thread_annotations.hpp":
        return
    for number, line in file.lines():
        found = re.search(r"\bstd::(\w*mutex|lock_guard|(unique|scoped|shared)_lock"
                          r"|condition_variable\w*)\b|\bNO_THREAD_SAFETY_ANALYSIS\b", code_of(line))
        if found:
            yield number, f"{found[0]}: locks are those of base/thread_annotations.hpp"
        if re.search(r"\bMutex\s+\w+(\s+ACQUIRED_BEFORE\(.*\))?\s*;", code_of(line)):
            yield number, "a mutex without a name has no lock order (base/lock_order.hpp)"


LOCK_TABLE = "src/base/lock_order.cpp"


def orders_told(text: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """The pairs of each row "| `A` → `B`, `C` → `D` | ... |", with the row's number."""
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.split("|")
        if len(cells) < 3 or "→" not in cells[1] or not cells[1].strip().startswith("`"):
            continue
        steps = [re.findall(r"`([\w:]+)`", step) for step in cells[1].split("→")]
        for firsts, seconds in zip(steps, steps[1:], strict=False):
            for first in firsts:
                for second in seconds:
                    yield number, (first, second)


def lock_rows(file: File) -> Iterator[tuple[int, str]]:
    """The lock order that is checked while tests run is the one that the README tells."""
    root = pathlib.Path(file.root)
    if file.path != "src/README.md" or not (root / LOCK_TABLE).exists():
        return
    in_code = re.findall(r'Order\{"([\w:]+)", "([\w:]+)"\}', (root / LOCK_TABLE).read_text())
    section = re.search(r"^## Locks\n(.*?)(?=^## |\Z)", file.text, re.M | re.S)
    told = [] if section is None else [
        (number + file.text[:section.start(1)].count("\n"), pair)
        for number, pair in orders_told(section[1])]
    for number, (first, second) in told:
        if (first, second) not in in_code:
            yield number, f"{first} → {second} is not in {LOCK_TABLE}"
    for first, second in in_code:
        if (first, second) not in [pair for _, pair in told]:
            yield 1, f"{first} → {second} of {LOCK_TABLE} is not in the section Locks"
    sources = "".join(path.read_text() for path in sorted((root / "src").rglob("*.[ch]pp"))
                      if path != root / LOCK_TABLE)
    declared = set(re.findall(r'\bMutex\b[^;"]*?[({]\s*"([\w:]+)"', sources))
    for name in sorted({name for pair in in_code for name in pair} - declared):
        yield 1, f"no mutex has the name {name} of {LOCK_TABLE}"


def singletons(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_product:
        return
    for number, line in file.lines():
        if re.search(r"\bstatic\s+[\w:<>]+\s*&\s*(get_)?instance\s*\(\s*\)", code_of(line)):
            yield number, "no singletons"


def header_guard(file: File) -> Iterator[tuple[int, str]]:
    if file.suffix not in {".h", ".hpp"}:
        return
    if "#pragma once" not in file.text and not re.search(r"^#ifndef \w+_H\b", file.text, re.M):
        yield 1, "neither #pragma once nor an include guard"


def header_opening(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_product or file.suffix not in {".h", ".hpp"}:
        return
    lines = [line for line in file.text.splitlines()[:4] if "SPDX" not in line]
    if not any(re.match(r"(//|/\*| \*) *\w", line) for line in lines):
        yield 1, "a header opens with what it is for"


def unfinished(file: File) -> Iterator[tuple[int, str]]:
    for number, line in file.lines():
        found = re.search(r"\b(TODO|FIXME|XXX)\b(?!\.)", line)
        if found:
            yield number, f"{found[1]}: an issue is the place for it"


def columns(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_code:
        return
    for number, line in file.lines():
        if len(line) > COLUMNS:
            yield number, f"{len(line)} columns, {COLUMNS} is the width"


def white_space(file: File) -> Iterator[tuple[int, str]]:
    if not file.is_code:
        return
    for number, line in file.lines():
        if line != line.rstrip():
            yield number, "white space at the end"
        if "\t" in line and file.suffix in CODE - {".ld", ".S"}:
            yield number, "a tab"
    if file.text and not file.text.endswith("\n"):
        yield file.text.count("\n") + 1, "no newline at the end"


def size(file: File) -> Iterator[tuple[int, str]]:
    lines = file.text.count("\n")
    if file.is_code and lines > LINES_MAX:
        yield lines, f"{lines} lines: more than one idea"


def machine_paths(file: File) -> Iterator[tuple[int, str]]:
    own = re.escape(file.root) + r"(?=[/\s\"']|$)" if file.root.count("/") >= 2 else r"(?!)"
    for number, line in file.lines():
        found = re.search(own + r"|(?<![\w$}.])/(home|Users)/[a-z]\w*", line)
        if found:
            yield number, f"{found[0]}: a path of one machine"


def registry_hosts(file: File) -> Iterator[tuple[int, str]]:
    host = re.compile(r"\b((registry|artifactory|nexus|pypi|npm|mirrors?|proxy)\d*(\.[a-z0-9-]+)+"
                      r"(?=[:/])|[a-z0-9.-]+\.(internal|intranet|corp|lan)\b(?=[:/]))", re.I)
    for number, line in file.lines():
        for url in re.findall(r"\w+://(\S+)", line):
            found = host.match(url.split("@")[-1])
            if found:
                yield number, f"{found[0]}: a host of one network"


def shell_strict(file: File) -> Iterator[tuple[int, str]]:
    if re.match(r"#!.*\bbash\b", file.text) and not re.search(r"^set -e?u", file.text, re.M):
        yield 1, "a bash script says `set -euo pipefail`"


# What users run. The tests need packages that an installation does not.
USER_BUILDS = {"README.md", "docs/operators-guide.md", "scripts/demo.py"}


def user_builds(file: File) -> Iterator[tuple[int, str]]:
    if file.path not in USER_BUILDS:
        return
    for number, line in file.lines():
        if re.search(r'meson setup [^`]|"meson", "setup"', line) and "-Dtests=false" not in line:
            yield number, "a build for users leaves the tests out: -Dtests=false"


RULES: dict[str, Rule] = {
    "arrows": arrows,
    "rooms": rooms,
    "license": license_line,
    "banned-headers": banned_headers,
    "coroutines": coroutines,
    "bare-assert": bare_assert,
    "singletons": singletons,
    "threads": threads,
    "locks": locks,
    "lock-rows": lock_rows,
    "header-guard": header_guard,
    "header-opening": header_opening,
    "unfinished": unfinished,
    "columns": columns,
    "white-space": white_space,
    "size": size,
    "machine-paths": machine_paths,
    "registry-hosts": registry_hosts,
    "shell-strict": shell_strict,
    "user-builds": user_builds,
}


def files_of(root: pathlib.Path, tracked: bool) -> Iterator[File]:
    names: list[str] = []
    if tracked:
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(root), "ls-files", "-z", "--cached",
             "--others", "--exclude-standard"], capture_output=True, text=True, check=False)
        names = [name for name in listed.stdout.split("\0") if name]
    if not names:  # not a checkout
        for folder, folders, found in os.walk(root):
            folders[:] = [f for f in folders if f != ".git" and not f.startswith("build")]
            names += [os.path.relpath(os.path.join(folder, name), root) for name in found]
    for name in sorted(names):
        if name.startswith(FIXTURES) or name == "LICENSE":
            continue
        path = root / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            yield File(name, path.read_text(encoding="utf-8"), str(root))
        except UnicodeDecodeError:
            continue  # recorded bytes of a test


def check(root: pathlib.Path, tracked: bool = True) -> list[Complaint]:
    complaints = []
    for file in files_of(root, tracked):
        for name, rule in RULES.items():
            # The rules' own words stand here.
            if file.path.startswith("tests/tidy/") and name in {"unfinished", "machine-paths"}:
                continue
            complaints += [Complaint(name, file.path, *found) for found in rule(file)]
        lines = file.text.count("\n")
        if file.is_product and LINES_ASK < lines <= LINES_MAX:
            complaints.append(
                Complaint("size", file.path, lines, f"{lines} lines: still one idea?", False))
    return complaints


def self_test(fixtures: pathlib.Path) -> int:
    failures = 0
    trees = {tree.name: tree for tree in sorted((fixtures / "bad").iterdir())}
    for rule in RULES.keys() - trees.keys():
        print(f"no fixture for the rule {rule}")
        failures += 1
    for rule, tree in trees.items():
        reported = {c.rule for c in check(tree, tracked=False) if c.fatal}
        if reported != {rule}:
            print(f"bad/{rule}: reported {sorted(reported) or 'nothing'}")
            failures += 1
    for complaint in check(fixtures / "good", tracked=False):
        print(f"good: {complaint}")
        failures += 1
    print(f"{len(trees)} bad trees, 1 good one, {failures} surprises")
    return 1 if failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("root", nargs="?", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parents[2])
    arguments = parser.parse_args()
    root = arguments.root.resolve()
    if arguments.self_test:
        return self_test(root / FIXTURES)
    complaints = check(root)
    for complaint in complaints:
        print(complaint)
    fatal = sum(c.fatal for c in complaints)
    print(f"{fatal} errors, {len(complaints) - fatal} warnings")
    return 1 if fatal else 0


if __name__ == "__main__":
    sys.exit(main())
