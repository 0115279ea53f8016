#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A web application as small services in Python are: it reads documents, parses them, keeps what
it found in memory and renders pages from that. The documents are the modules of Python's
own library.

    catalogue.py serve PORT         answers on 127.0.0.1:PORT
    catalogue.py ask PORT [COUNT]   asks for every module's page (or the first COUNT), twice
"""
import ast
import collections
import http.server
import json
import os
import pathlib
import re
import sqlite3
import string
import sys
import urllib.request

LIBRARY = pathlib.Path(os.__file__).parent
PAGE = string.Template("<html><h1>$name</h1><p>$about</p><ul>$functions</ul><p>$words</p></html>\n")


class Catalogue:
    """What is known of the modules so far."""

    def __init__(self):
        self.modules = {}
        self.trees = collections.OrderedDict()  # of the modules asked for last
        self.index = collections.defaultdict(set)
        self.store = sqlite3.connect(":memory:", check_same_thread=False)
        self.store.execute("create table function "
                           "(module text, name text, line integer, about text)")
        self.store.execute("create index by_name on function (name)")

    def learn(self, name):
        source = (LIBRARY / f"{name}.py").read_text(encoding="utf-8", errors="replace")
        tree = ast.parse(source)
        functions = [(name, node.name, node.lineno, ast.get_docstring(node) or "")
                     for node in ast.walk(tree)
                     if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        self.store.executemany("insert into function values (?, ?, ?, ?)", functions)
        words = collections.Counter(re.findall(r"[A-Za-z_]\w{3,}", source))
        for word in words:
            self.index[word].add(name)
        self.modules[name] = {"about": ast.get_docstring(tree) or "", "words": words}
        self.trees[name] = tree
        if len(self.trees) > 24:
            self.trees.popitem(last=False)

    def page(self, name):
        if name not in self.modules:
            self.learn(name)
        known = self.modules[name]
        rows = self.store.execute(
            "select name, line from function where module = ? order by line", [name])
        shared = {word: len(self.index[word]) for word, _ in known["words"].most_common(20)}
        return PAGE.substitute(name=name, about=known["about"], words=json.dumps(shared),
                               functions="".join(f"<li>{row[0]}:{row[1]}" for row in rows))


def names():
    return sorted(path.stem for path in LIBRARY.glob("*.py"))


def serve(port):
    catalogue = Catalogue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802: the library's name
            name = self.path.strip("/")
            found = name in names()
            body = catalogue.page(name).encode() if found else b"no such module\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def ask(port, count=None):
    asked = 0
    for _ in range(2):
        for name in names()[:count]:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=120) as page:
                if b"<h1>" not in page.read():
                    sys.exit(f"{name}: not a page")
            asked += 1
    print(f"{asked} pages")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
