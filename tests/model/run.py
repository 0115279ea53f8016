#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks one configuration exhaustively: run.py CONFIG TABLES, or run.py --list.

Those whose name begins with "reform", "gate", "pins", "copy", "mapping" or "pool" are of the model
of that name, all others of page.pml. TABLES is the output of print_tables, the code's own
transition tables. A configuration of PROOFS must be searched completely without an error; one of
REMOVALS, a proof without one rule, must be refuted.
Exit status: 0 as expected, 1 not, 77 when spin is missing and cannot be installed.
"""

import argparse
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MEMORY_MIB = 4000
DEPTH_MAX = 20000  # the deepest path seen is below 300
VECTOR_BYTES = 1024

# Each proof: its switches, and the table rows that its search must use.
PROOFS = {
    "fold": (
        "",
        ["word none->folded by punching", "word observed->folded by punching",
         "word clean->folded by punching", "word folded->clean by filling",
         "word folded->none by filling", "word clean->none by filling",
         "word observed->none by filling", "owner idle->folding", "owner idle->filling",
         "owner folding->filling", "owner folding->punching", "owner folding->idle",
         "owner punching->idle", "owner filling->idle"],
    ),
    "t4": ("NO_GUARD_CHECK FOLDS=3 GUESTS=1", []),
    "keeper": ("KEPT=0 CRASHES=2 GUESTS=1 FOLDS=3 OPS=3", []),
    "handlers": ("HANDLERS=2 CRASHES=0 FOLDS=1", []),
    "handlers-crash": ("HANDLERS=2 OPS=1 FOLDS=1", []),
    "pages": ("PAGES=2 OPS=1", []),
    "discard": ("DISCARDS=1 GUESTS=1", []),
    "discard-guests": ("DISCARDS=1 OPS=1 FOLDS=1", []),
    "discard-fails": ("DISCARDS=2 MAY_FAIL GUESTS=1 FOLDS=1 CRASHES=0", []),
    "unfold": ("UNFOLDS=1 DISCARDS=1 GUESTS=1 OPS=1 FOLDS=1 CRASHES=0", []),
    "poison": (
        "POISONS=1 DISCARDS=1 GUESTS=1 CRASHES=0",
        ["word folded->poisoned by filling", "word poisoned->none by filling"],
    ),
    "observe": (
        "OBSERVES FOLDS=3 GUESTS=1",
        ["word none->observed by punching", "word clean->none by punching"],
    ),
    "one-event": ("ONE_EVENT BORN_FOLDED NO_RECOVERY_WAKE FOLDS=0 GUESTS=1 CRASHES=0", []),
    "reform": ("OPS=3 SWITCHES=3", []),
    "reform-crash": ("CRASHES=1", []),
    "reform-crash-twice": ("CRASHES=2 SWITCHES=1", []),
    "reform-workers": ("WORKERS=2", []),
    "reform-third": ("WORDS=3 VALUES=3 SLOTS=5 LEFT_MAX=2", []),
    "reform-marks": ("MARKS CRASHES=1 SWITCHES=1", []),
    "pool": ("OPS=3 CRASHES=0", []),
    "pool-crash": ("", []),
    "gate": ("", []),
    "gate-lookers": ("LOOKERS=2 RUNS=2", []),
    "pins": ("", []),
    "pins-moves": ("MOVES=2 FORGETS=0", []),
    "pins-runs": ("RUNS=2 PINS=2 STEPS=2 MOVES=0", []),
    "pins-devices": ("DEVICES=2 RUNS=2 MOVES=0 FORGETS=0", []),
    "copy": ("", []),
    "mapping": (
        "FIRST=TAG_observed",
        ["word observed->mapped by mapping", "word mapped->none by restoring",
         "owner idle->mapping", "owner mapping->idle", "owner idle->restoring",
         "owner restoring->idle"],
    ),
    "mapping-again": ("STEPS=3 TURNS=3 CRASHES=0", ["word none->mapped by mapping"]),
    "mapping-crashes": ("TURNS=3 CRASHES=2", []),
    "mapping-discard": ("DISCARDS=1", ["word mapped->none by mapping"]),
    "mapping-discards": ("DISCARDS=2 TURNS=3 CRASHES=0", []),
    "mapping-pins": ("PINS=1", []),
    "mapping-clean": ("FIRST=TAG_clean GUARDED=1 TURNS=3", ["word clean->mapped by mapping"]),
    "mapping-clean-discard": ("FIRST=TAG_clean GUARDED=1 DISCARDS=1 MAY_FAIL CRASHES=0", []),
    "mapping-fails": ("MAY_FAIL TURNS=3", []),
    "mapping-fails-discard": ("MAY_FAIL DISCARDS=1 CRASHES=0", []),
}

# Rows that no proof uses, and why.
UNUSED_ROWS: dict[str, str] = {}

# Each removal: the proof it is taken from, and the switches that remove the rule.
REMOVALS = {
    "ownership": ("fold", "NO_OWNERSHIP"),
    "commit": ("fold", "NO_COMMIT"),
    "mode-wp": ("t4", "NO_MODE_WP"),
    "mode-wp-and-dontwake": ("t4", "NO_MODE_WP NO_DONTWAKE"),
    "dontwake": ("one-event", "NO_DONTWAKE"),
    "t4-word-before-lift": ("t4", "NO_WORD_BEFORE_LIFT"),
    "t5-bit-before-call": ("discard", "NO_T5_ORDER"),
    "t5-bit-read": ("discard", "NO_T5_BIT"),
    "t5-bit-stops-fold": ("discard", "NO_FOLD_BIT"),
    "t5-wait-for-fills": ("discard", "NO_WAIT_FOR_FILLS"),
    "t5-wait-for-fills-alive": ("discard-guests", "NO_WAIT_FOR_FILLS CRASHES=0"),
    "t5-own-bits-only": ("discard-fails", "NO_OWN_BITS_ONLY"),
    "t5-active-check": ("unfold", "NO_ACTIVE_CHECK FOLDS=2"),
    "bytes-before-commit": ("fold", "NO_BYTES_FIRST"),
    "keeper-before-punch": ("keeper", "NO_KEEPER_FIRST"),
    "recovery-wake": ("fold", "NO_RECOVERY_WAKE"),
    "contended-wake": ("fold", "NO_CONTENDED_WAKE"),
    "one-folder-a-page": ("fold", "FOLDERS=2 FOLDS=1 CRASHES=0"),
    "reform-old-kept": ("reform", "NO_OLD_KEPT"),
    "reform-bytes-first": ("reform", "NO_BYTES_FIRST"),
    "reform-reference-first": ("reform", "NO_REFERENCE_FIRST"),
    "reform-swap": ("reform-marks", "NO_SWAP"),
    "reform-wait": ("reform", "NO_WAIT"),
    "reform-second-turn": ("reform", "NO_SECOND_TURN"),
    "reform-count-in-first": ("reform", "NO_COUNT_IN_FIRST"),
    "reform-late-give-up": ("reform", "NO_LATE_GIVE_UP"),
    "reform-settle-first": ("reform-third", "NO_SETTLE_FIRST"),
    "reform-same-reference": ("reform-third", "NO_SAME_REFERENCE"),
    "reform-dependents-check": ("reform-third", "NO_DEPENDENTS_CHECK"),
    "reform-pin": ("reform", "NO_PIN"),
    "reform-take": ("reform", "NO_TAKE"),
    "reform-claim": ("reform-crash", "NO_CLAIM"),
    "reform-clear-first": ("reform", "NO_CLEAR_FIRST"),
    "reform-keep-while-recovering": ("reform-crash", "NO_KEEP_WHILE_RECOVERING"),
    "reform-put-after-recovery": ("reform-crash", "NO_PUT_AFTER_RECOVERY"),
    "reform-cursor": ("reform-crash", "NO_CURSOR"),
    "reform-count-dependents": ("reform-crash", "NO_COUNT_DEPENDENTS"),
    "reform-left-to-sweep": ("reform-crash", "NO_LEFT_TO_SWEEP"),
    "reform-phase-first": ("reform-crash", "NO_PHASE_FIRST"),
    "pool-mappings-check": ("pool", "NO_MAPPINGS_CHECK"),
    "pool-punch": ("pool", "NO_PUNCH"),
    "pool-count-first": ("pool", "NO_COUNT_FIRST"),
    "pool-unmap-first": ("pool", "NO_UNMAP_FIRST"),
    "pool-generation": ("pool-crash", "NO_GENERATION"),
    "pool-fence-first": ("pool-crash", "NO_FENCE_FIRST"),
    "pool-note": ("pool-crash", "NO_NOTE"),
    "gate-epoch": ("gate", "NO_EPOCH"),
    "gate-drain": ("gate", "NO_DRAIN"),
    "gate-raise-first": ("gate", "NO_RAISE_FIRST NO_SECOND_LOOK"),
    "pins-gate": ("pins", "NO_GATE MOVES=0 FORGETS=0"),
    "pins-guard-first": ("pins", "NO_GUARD_FIRST MOVES=0 FORGETS=0"),
    "pins-ask-before-read": ("pins", "NO_ASK_BEFORE_READ MOVES=0 FORGETS=0"),
    "pins-flush": ("pins", "NO_FLUSH MOVES=0 FORGETS=0"),
    "pins-one-load-maps-last": ("pins", "NO_ONE_LOAD=1 MOVES=0"),
    "pins-one-load-maps-first": ("pins", "NO_ONE_LOAD=2 FORGETS=0"),
    "pins-one-load-maps-twice": ("pins", "NO_ONE_LOAD=3 FORGETS=0"),
    "pins-one-load-forget": ("pins", "NO_ONE_LOAD=3 MOVES=0"),
    "pins-gup-recheck": ("pins", "NO_GUP_RECHECK MOVES=0 FORGETS=0"),
    "pins-gup-order": ("pins", "NO_GUP_ORDER MOVES=0 FORGETS=0"),
    "pins-guard-kept": ("pins", "NO_GUARD_KEPT FORGETS=0"),
    "pins-swap-count": ("pins", "NO_SWAP_COUNT FORGETS=0"),
    "pins-swap-lock": ("pins", "NO_SWAP_LOCK FORGETS=0"),
    "copy-place-before": ("copy", "NO_PLACE_BEFORE"),
    "copy-place-after": ("copy", "NO_PLACE_AFTER"),
    "copy-place": ("copy", "NO_PLACE"),
    "mapping-guard": ("mapping-again", "NO_GUARD"),
    "mapping-read-under-guard": ("mapping-again", "NO_READ_UNDER_GUARD"),
    "mapping-clean-guard": ("mapping-clean", "NO_CLEAN_GUARD"),
    "mapping-word-first": ("mapping", "NO_WORD_FIRST"),
    "mapping-wake": ("mapping-again", "NO_WAKE"),
    "mapping-gate": ("mapping-pins", "NO_GATE"),
    "mapping-restore-guard": ("mapping-again", "NO_RESTORE_GUARD"),
    "mapping-release-last": ("mapping-again", "NO_RELEASE_LAST"),
    "mapping-generation": ("mapping", "NO_GENERATION"),
    "mapping-fence": ("mapping", "NO_FENCE"),
    "mapping-fenced-faults": ("mapping", "NO_FENCED_FAULTS"),
    "mapping-maps": ("mapping-fails", "NO_MAPS"),
    "mapping-t2": ("mapping-fails", "NO_T2"),
    "mapping-recovery-wake": ("mapping", "NO_RECOVERY_WAKE"),
    "mapping-drop": ("mapping-discard", "NO_DROP"),
    "mapping-bit": ("mapping-discard", "NO_BIT_CHECK"),
    "mapping-lock": ("mapping-discard", "NO_LOCK"),
    "mapping-agent-punches": ("mapping-discard", "NO_AGENT_PUNCH"),
}


def spin_is_here() -> bool:
    if shutil.which("spin"):
        return True
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    with open("/tmp/ramfold-apt.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "-y", "spin"]):
            if shutil.which("spin"):
                return True
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, check=False)
    return shutil.which("spin") is not None


def switches(name: str) -> tuple[list[str], list[str], bool]:
    """The -D arguments, the rows to be used, and whether the search must find an error."""
    if name in PROOFS:
        text, rows = PROOFS[name]
        return [f"-D{word}" for word in text.split()], rows, False
    proof, removed = REMOVALS[name]
    given = dict(word.partition("=")[::2] for word in PROOFS[proof][0].split())
    given.update(word.partition("=")[::2] for word in removed.split())
    # What is to be seen is a wrong read or a sleeper, not a check of the code's own.
    given["NO_BUG_CHECKS"] = ""
    return [f"-D{key}" + (f"={value}" if value else "") for key, value in given.items()], [], True


def search(model: str, defines: list[str], optimised: str, tables: pathlib.Path,
           folder: pathlib.Path) -> str:
    for part in HERE.glob("*.pml"):
        shutil.copy(part, folder)
    shutil.copy(tables, folder / "tables.pml")
    run = lambda command: subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False)
    made = run(["spin", *defines, "-a", model])
    if made.returncode != 0 or not (folder / "pan.c").exists():
        sys.exit(f"spin -a failed:\n{made.stdout}")
    made = run(["cc", optimised, "-w", "-DSAFETY", "-DCOLLAPSE", f"-DVECTORSZ={VECTOR_BYTES}",
                f"-DMEMLIM={MEMORY_MIB}", "-o", "pan", "pan.c"])
    if made.returncode != 0:
        sys.exit(f"cc failed:\n{made.stdout}")
    return run(["./pan", f"-m{DEPTH_MAX}"]).stdout


def row_problems(output: str, wanted: list[str]) -> list[str]:
    used = {row: int(count) for row, count in re.findall(r"^row (.+): (\d+)$", output, re.M)}
    problems = [f"row not used: {row}" for row in wanted if used.get(row, 0) == 0]
    required = {row for _, rows in PROOFS.values() for row in rows}
    problems += [f"row of the code's table that neither a proof nor UNUSED_ROWS has: {row}"
                 for row in used if row not in required and row not in UNUSED_ROWS]
    problems += [f"UNUSED_ROWS names a row that is used: {row}"
                 for row in UNUSED_ROWS if used.get(row, 0) > 0]
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the configurations' names")
    parser.add_argument("--keep", type=pathlib.Path, help="work in this folder and leave it")
    parser.add_argument("config", nargs="?", choices=[*PROOFS, *REMOVALS])
    parser.add_argument("tables", nargs="?", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join([*PROOFS, *REMOVALS]))
        return 0
    if not arguments.config or not arguments.tables:
        parser.error("a configuration and the tables are needed")
    if not spin_is_here():
        print("skipped: spin is not installed and apt-get cannot install it here")
        return 77

    defines, rows, must_fail = switches(arguments.config)
    part = arguments.config.split("-")[0]
    own_models = ("reform", "gate", "pins", "copy", "mapping", "pool")
    model = f"{part}.pml" if part in own_models else "page.pml"
    # Most searches of a removal end sooner than a compiler that optimises; for proofs a little of
    # it is worth its time.
    optimised = "-O0" if must_fail else "-O1"
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        output = search(model, defines, optimised, arguments.tables, folder)
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"(\S+) states, stored", output)
    memory = re.search(r"(\S+)\s+total actual memory usage", output)
    found = re.search(r"^pan:1: (.*)$", output, re.M)
    truncated = re.search(r"max search depth too small|out of memory|MEMLIM|VECTORSZ", output)
    if not errors or not states or truncated:
        print(output)
        print("the search did not end properly")
        return 1
    if must_fail:
        # Only an assertion on a read or a sleeping thread counts.
        ok = int(errors[1]) > 0 and found is not None
        if not ok:
            print("the rule was removed and the search found nothing")
    else:
        problems = row_problems(output, rows) if int(errors[1]) == 0 else ["an error was found"]
        ok = not problems
        print("\n".join(problems), end="\n" if problems else "")
    print(f"{arguments.config}: {states[1]} states, {memory[1] if memory else '?'} MiB, "
          f"errors: {errors[1]}{', ' + found[1] if found else ''}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
