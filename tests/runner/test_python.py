"""A script in the warm interpreter behaves as under a fresh `python3 script.py`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.runner.conftest import Bench

SCRIPTS = {
    "print": "print(1 + 1)",
    "exit-status": "import sys; sys.exit(7)",
    "exit-text": "import sys; sys.exit('bad')",
    "exit-big": "import sys; sys.exit(256 + 3)",
    "exit-none": "raise SystemExit",
    "exception": "def f():\n    raise ValueError('x')\nf()",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "syntax-error": "print('a'\nx =",
    "coding": "# -*- coding: latin-1 -*-\nprint(len('é'))",
    "names": "print(__name__, sorted(k for k in globals() if k != '__loader__'))",
    "argv": "import sys; print(sys.argv)",
    "main-module": "import sys, __main__; print(__main__ is sys.modules['__main__'])",
    "pickle-main": (
        "import pickle\nclass A:\n    pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)"
    ),
    "atexit": "import atexit; atexit.register(print, 'bye'); print('hi')",
    "atexit-exception": "import atexit; atexit.register(lambda: 1 / 0)",
    "thread": "import threading, time\nthreading.Thread(target=lambda: print('late')).start()",
    "daemon-thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    ),
    "unflushed-file": "f = open('out', 'w'); f.write('kept'); print(open('out').read())",
    "unflushed-in-module": "import json; json.f = open('out2', 'w'); json.f.write('kept')",
    "finaliser": "class A:\n    def __del__(self):\n        print('deleted')\na = A()",
    "subprocess": (
        "import subprocess\nprint(subprocess.run(['sh', '-c', 'echo out; exit 4'],"
        " capture_output=True))"
    ),
    "multiprocessing": (
        "import multiprocessing as m\nif __name__ == '__main__':\n"
        "    print(m.get_context('fork').Pool(2).map(abs, [-1, -2]))"
    ),
    "asyncio": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print('x')\n"
        "asyncio.run(f())"
    ),
    "ctypes": "import ctypes; print(ctypes.CDLL(None).getpid() > 0, ctypes.sizeof(ctypes.c_int))",
    "ssl-hash": "import hashlib, ssl; print(hashlib.sha256(b'x').hexdigest())",
    "json-decimal": "import json, decimal, socket, select, struct; print(json.dumps([1]))",
    "random": "import random; random.seed(1); print(random.random())",
    "signals": "import signal; print([signal.getsignal(n) for n in (2, 13, 15, 17)])",
    "sigpipe-in-child": "import subprocess; print(subprocess.call('yes | head -1', shell=True))",
    "recursion": "def f(): f()\ntry: f()\nexcept RecursionError: print('deep')",
    "stdin": "import sys; print(sys.stdin.read(), input.__name__)",
    "encoding": "import sys; print(sys.stdout.encoding, sys.getfilesystemencoding())",
    "surrogates": "import os; print(os.fsencode(os.fsdecode(b'\\xff')))",
    "warnings": "import warnings; warnings.warn('careful')",
    "excepthook": "import sys; sys.excepthook = lambda *a: print('hook', a[0]); 1 / 0",
    "open-descriptors": "import os; print(sorted(os.listdir('/proc/self/fd')))",
    "umask-cwd": "import os; print(oct(os.umask(0)), os.getcwd())",
    "gc": "import gc; print(gc.isenabled(), gc.get_threshold())",
    "own-modules": "import sys; print([m for m in sys.modules if 'shannot' in m])",
    "dist-packages": "import sys; print([p for p in sys.path if 'packages' in p])",
}


def expected(script: Path, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": str(Path.home())}
    return subprocess.run(
        ["/usr/bin/python3", str(script), "one", "two"],
        input=stdin,
        capture_output=True,
        cwd=script.parent,
        env=environment,
        umask=0o022,
    )


def without_addresses(text: bytes) -> bytes:
    """`text` with every object's address made equal."""
    return re.sub(rb"0x[0-9a-f]+", b"0x0", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_like_a_fresh_interpreter(bench: Bench, place: Path, name: str) -> None:
    script = place / "script.py"
    script.write_text(SCRIPTS[name])
    outcome = bench.run(
        "file",
        script.read_bytes(),
        "one",
        "two",
        name="script.py",
        path=str(script),
        cwd=str(place),
        stdin=b"typed",
    )
    plain = expected(script, b"typed")
    assert outcome.stdout == plain.stdout
    assert without_addresses(outcome.stderr) == without_addresses(plain.stderr)
    status = plain.returncode
    assert (outcome.exit_code, outcome.signal) == (
        (status, None) if status >= 0 else (None, -status)
    )
    written = {path.name: path.read_bytes() for path in place.glob("out*")}
    recorded = {
        Path(step["path"]).name: outcome.blobs[step["after"]["sha256"]]
        for step in outcome.steps
        if step["kind"] == "file" and "__pycache__" not in step["path"]
    }
    assert recorded == written or recorded == {}, "the sandbox runs before the plain script"


def test_imports_find_siblings(bench: Bench, place: Path) -> None:
    (place / "helper_module.py").write_text("VALUE = 42")
    source = b"import helper_module; print(helper_module.VALUE)"
    script = place / "main.py"
    script.write_bytes(source)
    outcome = bench.run("file", source, name="main.py", path=str(script), cwd="/")
    assert outcome.stdout == b"42\n"


def test_a_shadowing_sibling_wins(bench: Bench, place: Path) -> None:
    """Modules that the runner loaded for itself must not shadow the script's own."""
    (place / "socket.py").write_text("print('mine')")
    script = place / "main.py"
    script.write_text("import socket")
    outcome = bench.run("file", script.read_bytes(), name="main.py", path=str(script), cwd="/")
    assert outcome.stdout == b"mine\n"


def test_inline_code(bench: Bench) -> None:
    outcome = bench.run("python", "import sys; print(sys.argv, __name__); 1 / 0", "a")
    assert outcome.stdout == b"['-c', 'a'] __main__\n"
    assert b'File "<string>", line 1, in <module>' in outcome.stderr
    assert b"runner" not in outcome.stderr


@pytest.mark.parametrize(
    ("source", "stdout"),
    [
        (b"#!/bin/sh\necho $0 $1\n", b"{path} one\n"),
        (b"#!/usr/bin/env python3\nimport sys; print(sys.argv)\n", b"['{path}', 'one']\n"),
        (b"#! /usr/bin/python3 -E\nimport sys; print(sys.flags.ignore_environment)\n", b"1\n"),
        (b"#!/usr/bin/awk -f\nBEGIN { print 1 + 1 }\n", b"2\n"),
        (b"#!/usr/bin/perl\nprint 1 + 1;\n", b"2"),
        (b"print('no interpreter line')", b"no interpreter line\n"),
    ],
)
def test_the_interpreter_line_decides(
    bench: Bench, place: Path, source: bytes, stdout: bytes
) -> None:
    script = place / "script"
    script.write_bytes(source)
    outcome = bench.run("file", source, "one", name="script", path=str(script), cwd="/")
    assert outcome.stdout == stdout.replace(b"{path}", str(script).encode()), outcome


def test_submitted_bytes_run_whatever_is_at_the_path(bench: Bench, place: Path) -> None:
    script = place / "script.sh"
    script.write_text("#!/bin/sh\necho swapped\n")
    source = b"#!/bin/sh\necho submitted\n"
    outcome = bench.run("file", source, name="script.sh", path=str(script), cwd="/")
    assert outcome.stdout == b"submitted\n"


@pytest.mark.parametrize(
    ("argv", "status"), [(["no-such-program"], 127), (["/etc/passwd"], 126), (["/"], 126)]
)
def test_commands_that_cannot_start(bench: Bench, argv: list[str], status: int) -> None:
    outcome = bench.run("command", b"", *argv)
    assert outcome.exit_code == status
    assert argv[0].encode() in outcome.stderr


def test_a_command_by_its_name(bench: Bench) -> None:
    outcome = bench.run("command", b"", "printf", "%s-", "a b", "c")
    assert outcome.stdout == b"a b-c-"
    assert [program["count"] for program in outcome.programs] == [1]


def test_a_command_is_searched_as_a_shell_does(bench: Bench, place: Path) -> None:
    for name, mode in (("one", 0o644), ("two", 0o755), ("three", 0o755)):
        (place / name).mkdir()
        (place / name / "tool").write_text(f"#!/bin/sh\necho {name}\n")
        (place / name / "tool").chmod(mode)
    path = ":".join(str(place / name) for name in ("none", "one", "two", "three"))
    outcome = bench.run("command", b"", "tool", environment={"PATH": path})
    assert outcome.stdout == b"two\n"
    only = bench.run("command", b"", "tool", environment={"PATH": str(place / "one")})
    assert (only.exit_code, only.stderr) == (126, b"'tool': Permission denied\n")


def test_binary_junk_is_a_scripts_error(bench: Bench) -> None:
    junk = bytes(range(256)) * 100
    outcome = bench.run("file", junk, name="junk", path=None)
    assert outcome.exit_code == 1
    assert b"SyntaxError" in outcome.stderr or b"source code" in outcome.stderr
