#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/checks.md lists every ENSURE of src with its verdict: checks.py. A row of a section "Ends"
names files, and after each file parts of conditions: `guest/vm.cpp`: `page within`, `p < end`. Each
must be part of an ENSURE of that file, and each ENSURE must have one. The rows of "Stops" name
files that exist. checks.py --self-test shows that it can complain."""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = "docs/checks.md"
SUFFIXES = {".c", ".h", ".cpp", ".hpp"}
FILE = re.compile(r"[\w/]+\.(?:c|h|cpp|hpp)")
# A comment, a string, a definition, or the name of the check with its opening bracket.
TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|# *define[^\n]*|\bENSURE\(', re.S)
PIECE = re.compile(r'"(?:\\.|[^"\\\n])*"|[^"()]+|[()]')


def conditions(text):
    """The conditions of the ENSUREs of a source, each in one line."""
    for token in TOKEN.finditer(text):
        if token.group() != "ENSURE(":
            continue
        depth, end = 1, token.end()
        while depth != 0:
            piece = PIECE.match(text, end)
            if piece is None:
                break
            depth += {"(": 1, ")": -1}.get(piece.group(), 0)
            end = piece.end()
        yield " ".join(text[token.end():end - 1].split())


def rows_of(page):
    """(line number, section, cells) of each row below the head of a table."""
    section, below_head = "", False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("## "):
            section = line[3:]
        if not line.startswith("|"):
            below_head = False
        elif line.startswith("|---"):
            below_head = True
        elif below_head:
            yield number, section, [cell.strip() for cell in line.strip("|").split("|")]


def complaints(page, sources):
    """`sources`: the text of each file, by its path below src."""
    code = {path: set(conditions(text)) for path, text in sources.items()}
    listed = {path: set() for path in code}
    for number, section, cells in rows_of(page):
        if not section.startswith(("Ends", "Stops")):
            continue
        if len(cells) != 3:
            yield f"{number}: {len(cells)} columns, 3 are wanted"
            continue
        path, parts = None, 1
        for name in [*re.findall(r"`([^`]+)`", cells[1]), None]:
            if name is not None and not FILE.fullmatch(name):
                parts += 1
                found = {c for c in code.get(path, ()) if name in c}
                if not found:
                    yield f"{number}: {path} has no ENSURE with {name}"
                listed.get(path, set()).update(found)
                continue
            if parts == 0 and section.startswith("Ends"):
                yield f"{number}: {path} is named without a condition"
            if name is not None and name not in code:
                yield f"{number}: there is no file {name}"
            path, parts = name, 0
    for path, all_of_it in sorted(code.items()):
        for condition in sorted(all_of_it - listed[path]):
            yield f"0: {path} has ENSURE({condition}), and no row names it"


def self_test():
    sources = {
        "a.cpp": 'void f() {\n  ENSURE(x == 1 &&\n         g(")", y));  // ENSURE(no)\n}\n',
        "b.hpp": "#define ENSURE(cond) 0\n#define DENSURE(c) ENSURE(c)\n"
                 "// ENSURE(condition) aborts.\nDENSURE(z);\n",
        "c/d.c": 'ENSURE(!"done");\nENSURE(v.empty());\n',
    }
    head = "\n| what | where | why |\n|---|---|---|\n"
    a, d = "`a.cpp`: `x == 1 && g(`", '`c/d.c`: `!"done"`, `v.empty()`'
    good = [f"## Ends it{head}| w | {a}; {d} | y |\n",
            f"## Stops it{head}| w | `b.hpp` | y |\n"
            f"## Ends it{head}| w | {d} | y |\n| w | {a} | y |\n",
            f"## Ends it{head}| w | {a} | y |\n\n## Ends that{head}| w | {d} | y |\n"]
    bad = [f"## Ends it{head}| w | {a} | y |\n",
           f"## Ends it{head}| w | {a}; `c/d.c`: `v.empty()` | y |\n",
           f"## Ends it{head}| w | {a}, `x == 2`; {d} | y |\n",
           f"## Ends it{head}| w | {a}; {d}; `b.hpp` | y |\n",
           f"## Ends it{head}| w | {a}; {d}; `b.hpp`: `z` | y |\n",
           f"## Ends it{head}| w | {a}; {d}; `e.cpp`: `x` | y |\n",
           f"## Ends it{head}| w | `x == 1`; {a}; {d} | y |\n",
           f"## Ends it{head}| w | {a}; {d} |\n",
           f"## Other{head}| w | {a}; {d} | y |\n",
           f"## Stops it{head}| w | `e.cpp` | y |\n## Ends it{head}| w | {a}; {d} | y |\n"]
    for page in good:
        if found := list(complaints(page, sources)):
            sys.exit(f"good, and complained of: {found}\n{page}")
    for page in bad:
        if not list(complaints(page, sources)):
            sys.exit(f"bad, and not seen: {page}")
    print(f"{len(good)} good pages, {len(bad)} bad ones")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    src = ROOT / "src"
    sources = {str(path.relative_to(src)): path.read_text(encoding="utf-8")
               for path in sorted(src.rglob("*")) if path.suffix in SUFFIXES and path.is_file()}
    found = list(complaints((ROOT / PAGE).read_text(encoding="utf-8"), sources))
    for complaint in found:
        print(f"{PAGE}:{complaint}")
    checks = sum(len(list(conditions(text))) for text in sources.values())
    print(f"{checks} checks, {len(found)} complaints")
    sys.exit(1 if found or checks == 0 else 0)


if __name__ == "__main__":
    main()
