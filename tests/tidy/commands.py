#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command, option and setting that a remedy or a document names must exist: commands.py
RAMFOLD RAMFOLDD KEEPER, the built programs. They are asked themselves (--help), the settings are
those of src/policy/config.cpp. commands.py --self-test shows that it can complain."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACES = ("src", "docs", "systemd", "scripts", "README.md", "HACKING.md", "demo")
SUFFIXES = {".c", ".h", ".cpp", ".hpp", ".in", ".md", ".scd", ".toml", ".py", ".sh", ""}
# A setting within a text.
SETTING = r"(?<![\w./])(?:fold|scan|fault|host|groups|gate)\.[a-z_]+(?![\w.(])"
# Words that stand for any command.
ANY = {"...", "COMMAND"}
GROUPS = {"policy"}  # commands that have commands
GROUP = "Subcommands:"  # in the help of such a one


def spans(name, text):
    """What is meant to be typed or set, with its line: backticks, a manual's bold, an example's."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in re.findall(r"`([^`]+)`", line):
            yield number, found
        if name.endswith(".scd"):
            for found in re.findall(r"\*((?:ramfold|ramfoldd|ramfold-keeper)\b[^*]*)\*", line):
                yield number, found
            if line.startswith("*ramfold* *"):
                yield number, re.sub(r"\*|\+\+|\[|\]", "", line)
        example = re.match(r"(?:    |#\s+)(?:[^`]*&& )?(ramfold(?:d|-keeper)? (?!\d)[^`]*)$", line)
        if example and name.endswith((".md", ".in", ".toml")):
            yield number, example[1]


def commands_in(span):
    """Each use of a program in a span: (program, words after it)."""
    for part in re.split(r"&&|\|\||;|\|(?=\s)", re.sub(r"\s#\s.*", "", span)):
        words = part.replace("!", " ").split()
        while words and (words[0] == "sudo" or "=" in words[0]):
            words = words[1:]
        if words and re.fullmatch(r"(\S*/)?ramfold(d|-keeper)?", words[0]):
            yield words[0].split("/")[-1], words[1:]


class Programs:
    def __init__(self, help_of):
        self.help_of = help_of
        self.known = {}

    def options(self, program, command=""):
        if (program, command) not in self.known:
            text = self.help_of(program, command)
            if text is not None and " " in command and GROUP in text:
                text = None  # the help of the group: it has no such command
            found = None if text is None else set(re.findall(r"--[a-z][a-z-]*", text))
            self.known[program, command] = found
        return self.known[program, command]

    def complaint(self, program, words):
        command = ""
        if program == "ramfold":
            if not words or words[0].startswith("-"):
                command = ""
            else:
                command = words[0]
                if command in ANY or command.endswith(":"):  # a program's output
                    return None
                if not re.fullmatch(r"[a-z]+", command) or self.options(program, command) is None:
                    return f"there is no `ramfold {command}`"
                if command in GROUPS and len(words) > 1:
                    command += f" {words[1]}"
                    if self.options(program, command) is None:
                        return f"there is no `ramfold {command}`"
        known = self.options(program, command)
        for word in words:
            if word == "--":  # what follows is another program's
                break
            option = re.match(r"--[a-z][a-z-]*", word)
            if option and option[0] not in known:
                return f"`{program} {command}` has no option {option[0]}"
        return None


def settings_in(name, number_and_span):
    number, span = number_and_span
    found = re.match(r"(fold|scan|fault|host|groups|gate)\.([a-z_]+)(?![\w.])", span)
    if found and not name.startswith("src/"):
        yield number, found[0]


def setting_strings(name, text):
    """Settings in the texts of the product."""
    if not name.startswith("src/"):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if "TEST_POINT" in line or line.lstrip().startswith("//"):
            continue
        for literal in re.findall(r'"((?:\\.|[^"\\])*)"', line):
            for found in re.findall(SETTING, literal):
                yield number, found


def complaints(files, programs, keys):
    for name, text in files:
        for number, span in spans(name, text):
            for program, words in commands_in(span):
                if (problem := programs.complaint(program, words)) is not None:
                    yield f"{name}:{number}: {problem}"
            for _, key in settings_in(name, (number, span)):
                if key not in keys:
                    yield f"{name}:{number}: there is no setting {key}"
        for number, key in setting_strings(name, text):
            if key not in keys:
                yield f"{name}:{number}: there is no setting {key}"


def product_files():
    for place in PLACES:
        path = ROOT / place
        for file in sorted(path.rglob("*") if path.is_dir() else [path]):
            if file.is_file() and file.suffix in SUFFIXES:
                text = file.read_text(encoding="utf-8", errors="replace")
                yield str(file.relative_to(ROOT)), text


def keys_of_product():
    text = (ROOT / "src/policy/config.cpp").read_text(encoding="utf-8")
    return set(re.findall(r'\{"([a-z]+\.[a-z_]+)",', text))


def self_test():
    helps = {("ramfold", "policy"): GROUP, ("ramfold", "policy get"): "--json",
             ("ramfold", "policy gte"): GROUP, ("ramfold", "off"): "--dry-run",
             ("ramfold", "exec"): "", ("ramfoldd", ""): "--config"}
    programs = Programs(lambda program, command: helps.get((program, command)))
    good = ["`ramfold off --dry-run`", "`ramfold exec -- qemu --version`", "`ramfoldd --config X`",
            "ramfold is here", "`ramfold policy get --json`", "`fold.when`", "`host.promise.kept`"]
    bad = ["`ramfold halt`", "`ramfold off --force`", "`systemctl kill x && ramfold halt`",
           "`ramfoldd --risk`", "`fold.never`", "`ramfold policy gte`",
           "`ramfold policy get --risk`"]
    for line in good:
        found = list(complaints([("docs/a.md", line)], programs, {"fold.when"}))
        if found:
            sys.exit(f"good, and complained of: {found}")
    for line in bad:
        if not list(complaints([("docs/a.md", line)], programs, {"fold.when"})):
            sys.exit(f"bad, and not seen: {line}")
    if not list(complaints([("src/a.cpp", 'say("raise fold.never");')], programs, {"fold.when"})):
        sys.exit("a setting in a string was not seen")
    print(f"{len(good)} good lines, {len(bad) + 1} bad ones")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    paths = dict(zip(("ramfold", "ramfoldd", "ramfold-keeper"), sys.argv[1:4]))

    def help_of(program, command):
        words = [paths[program], *command.split(), "--help"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout + done.stderr if done.returncode == 0 else None

    programs = Programs(help_of)
    keys = keys_of_product()
    if len(keys) < 10 or not programs.options("ramfold", "off"):
        sys.exit("this check does not understand the product any more")
    found = list(complaints(product_files(), programs, keys))
    print("\n".join(found))
    asked = sorted(' '.join(known).strip() for known in programs.known)
    print(f"{len(found)} complaints; asked for {asked}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
