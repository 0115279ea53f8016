#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/hazards.md names must exist: hazards.py BUILD. Its tests are those of BUILD (as in
`meson test --list`), its quoted cases stand in a test's source, its files in the tree; every hazard
says which test holds it, or why none does. Its table of calls has each call that the agent
interposes, and no other. hazards.py --self-test shows that it can complain."""
import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = "docs/hazards.md"
COLUMNS = ["#", "hazard", "rule", "files", "tests"]
NUMBERS = {f"D{i}" for i in range(1, 15)} | {f"L{i}" for i in range(1, 9)}
GAPS = "## Without a test"
CALLS = "### Calls that the agent holds"
AGENT = "src/agent/preload"
CASES = {".cpp", ".py", ".c"}


def rows_of(text):
    """(line number, cells) of each row of the tables."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\| *[A-Z]\d+ *\|", line):
            yield number, [cell.strip() for cell in line.strip().strip("|").split("|")]


def complaints(text, tests, is_file, sources):
    seen = set()
    gaps = text.split(GAPS, 1)[1] if GAPS in text else ""
    for number, cells in rows_of(text):
        if len(cells) != len(COLUMNS):
            yield f"{number}: {len(cells)} columns, {COLUMNS} are wanted"
            continue
        name, _, rule, files, held_by = cells
        if name in seen:
            yield f"{number}: {name} for the second time"
        seen.add(name)
        for path in re.findall(r"`([^`]+)`", files):
            if not is_file(path):
                yield f"{number}: there is no file {path}"
        named = re.findall(r"`([^`]+)`", held_by)
        for test in named:
            if test not in tests:
                yield f"{number}: there is no test {test}"
        for case in re.findall(r'"([^"]+)"', held_by):
            if case not in sources:
                yield f"{number}: no test has the case {case}"
        if not named and "*Not built*" not in rule and not re.search(rf"\b{name}\b", gaps):
            yield f"{number}: {name} has no test, and '{GAPS}' does not say so"
    for name in sorted(NUMBERS - seen):
        yield f"0: {name} is not there"


def interposed(source):
    """What the agent's sources interpose: names of calls; and the arguments for which these do
    something: advice of madvise, requests of ioctl, calls by syscall() that have no name here."""
    calls = set(re.findall(r"^RF_EXPORT\b[^;{(]*?(\w+)\(", source, re.M))
    cases = set(re.findall(r"\bcase ([A-Z]\w+):", source))
    return ({name for name in calls if name.removesuffix("64") not in calls - {name}},
            {name for name in cases if name.removeprefix("SYS_") not in calls})


def calls_amiss(text, source):
    """Differences between the page's table of calls and the agent's sources."""
    calls, cases = interposed(source)
    table = text.split(CALLS, 1)[1].split("\n## ", 1)[0] if CALLS in text else ""
    rows = re.findall(r"^\| (?!calls |---)(.*?) \|", table, re.M)
    listed = {word for row in rows for code in re.findall(r"`([^`]+)`", row)
              for word in re.findall(r"\b[a-z]\w*", code)}
    about = {word for row in rows for word in re.findall(r"\b[A-Z]+_\w+", row)}
    for name in sorted(calls - listed) + sorted(cases - about):
        yield f"0: the agent interposes {name}, and '{CALLS}' does not say why"
    for name in sorted(listed - calls):
        yield f"0: '{CALLS}' has {name}, which the agent does not interpose"
    for name in sorted(about - cases):
        yield f"0: '{CALLS}' has {name}, for which the agent does nothing"


def self_test():
    known = {"one", "two, three"}
    rest = "".join(f"| {name} | h | r | `a.c` | `one` |\n" for name in sorted(NUMBERS - {"D1"}))
    good = ["| D1 | h | r | `a.c` | `one` (r), `two, three`: \"a case\"; `one` |",
            "| D1 | h | *Not built*: no. | - | - |",
            f"| D1 | h | r | `a.c` | - |\n{GAPS}\n- D1: hard."]
    bad = ["| D1 | h | r | `a.c` | `two` |", "| D1 | h | r | `b.c` | `one` |", "",
           "| D1 | h | r | `a.c` | - |",
           "| D1 | h | r | `a.c` | `one`: \"another case\" |", "| D1 | h | `a.c` | `one` |",
           "| D1 | h | r | `a.c` | `one` |\n| D1 | h | r | `a.c` | `one` |",
           f"| D1 | h | r | `a.c` | - |\n{GAPS}\n- D11: hard."]

    def found(page):
        return list(complaints(rest + page, known, lambda path: path == "a.c", "a case"))

    for page in good:
        if found(page):
            sys.exit(f"good, and complained of: {found(page)}")
    for page in bad:
        if not found(page):
            sys.exit(f"bad, and not seen: {page}")
    source = ("RF_EXPORT void *mmap(void *at,\n    size_t size) {\n}\n"
              "RF_EXPORT void *mmap64(void *at) { return mmap(at, 1); }\n"
              "RF_EXPORT int madvise(void *at, int advice) {\n  case MADV_ONE: /* why */\n"
              "    case MADV_TWO: {\n}\nRF_EXPORT long syscall(long nr, ...) {\n"
              "    case SYS_made:\n    case SYS_mmap: return\n")
    table = (f"{CALLS}\n\n| calls | why | rows |\n|---|---|---|\n| `mmap` | w | D1 |\n"
             "| `syscall(SYS_made)` | it calls `other` | D1 |\n"
             "| `madvise(MADV_ONE)`; MADV_TWO | not MADV_SIX | D1 |\n## Next\n| `other` | |\n")
    if found := list(calls_amiss(table, source)):
        sys.exit(f"a good table of calls, and complained of: {found}")
    wrong = [(table.replace("`mmap` |", "`munmap` |"), source),
             (table, source + "RF_EXPORT int another("),
             (table, source + "  case MADV_SIX:\n"),
             (table, source.replace("MADV_TWO", "MADV_ONE")),
             (table.replace("(SYS_made)", ""), source), ("", source)]
    for page, agent in wrong:
        if not list(calls_amiss(page, agent)):
            sys.exit(f"a bad table of calls, and not seen: {page}{agent}")
    print(f"{len(good)} good pages, {len(bad)} bad ones; {len(wrong)} bad tables of calls")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    listed = json.loads((pathlib.Path(sys.argv[1]) / "meson-info/intro-tests.json").read_text())
    tests = {test["name"] for test in listed}
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    sources = "\n".join(path.read_text(encoding="utf-8")
                        for path in sorted((ROOT / "tests").rglob("*"))
                        if path.suffix in CASES and path.is_file())
    found = list(complaints(text, tests, lambda path: (ROOT / path).is_file(), sources))
    found += calls_amiss(text, "\n".join(path.read_text(encoding="utf-8")
                                         for path in sorted((ROOT / AGENT).glob("*.c"))))
    for complaint in found:
        print(f"{PAGE}:{complaint}")
    print(f"{len(list(rows_of(text)))} hazards, {len(tests)} tests, {len(found)} complaints")
    sys.exit(1 if found or not tests else 0)


if __name__ == "__main__":
    main()
