"""Runs a Python script in the warm interpreter as a fresh `python3 script.py` would.

`prepare` is called once, first thing in the zygote: what is loaded by then is what any fresh
interpreter has; everything that the runner imports later is forgotten before a script runs.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import signal
import site
import sys
import types
from typing import Dict, FrozenSet, List, NoReturn, Optional

_fresh_modules: FrozenSet[str] = frozenset()
_fresh_path: List[str] = []
_fresh_threshold = gc.get_threshold()


def prepare(modules: FrozenSet[str], path: List[str]) -> None:
    """Remember what a fresh interpreter has loaded, and its sys.path."""
    global _fresh_modules, _fresh_path
    _fresh_modules = modules
    _fresh_path = path


def settle(environment: Dict[str, str]) -> None:
    """Leave modules and paths as a fresh interpreter has them, while nobody waits.

    Ours go on by what they hold of each other; nothing of theirs may be imported from now on.
    The motions of a script are gone through once, so that a real one finds the memory already
    its own.
    """
    for name in list(sys.modules):
        if name not in _fresh_modules:
            del sys.modules[name]
    sys.path[:] = _fresh_path
    sys.path_importer_cache.clear()
    atexit._clear()
    scratch: Dict[str, object] = {}
    source = b"import sys\nprint(str(1), end='', flush=True)\n"
    exec(compile(source, "<string>", "exec", dont_inherit=True), scratch)
    _forget_ourselves(environment)
    _main_module(None)
    _flush_files()
    gc.collect()
    # What lives by now outlives the script: its last collection need not look at it.
    gc.freeze()


def is_this_interpreter(interpreter: List[str], search_path: str) -> bool:
    """Whether a `#!` line means the interpreter that is warm already."""
    program = interpreter[0]
    rest = interpreter[1:]
    if os.path.basename(program) == "env" and rest and not rest[0].startswith("-"):
        program, rest = rest[0], []
        program = _found(program, search_path) or program
    return not rest and os.path.realpath(program) == os.path.realpath(sys.executable)


def _found(program: str, search_path: str) -> Optional[str]:
    """Where the program of that name is on the path."""
    paths = (os.path.join(directory, program) for directory in search_path.split(os.pathsep))
    usable = (path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK))
    return next(usable, None)


def run(
    source: bytes, filename: str, arguments: List[str], environment: Dict[str, str]
) -> NoReturn:
    """Execute `source` as `__main__` and end the process as the interpreter would.

    `filename` is argv[0]: a path, `-c` or `-`.
    """
    compiled_name = {"-c": "<string>", "-": "<stdin>"}.get(filename, filename)
    _forget_ourselves(environment)
    is_file = compiled_name == filename
    sys.argv = [filename, *arguments]
    sys.path.insert(0, os.path.dirname(filename) if is_file else "")
    _add_user_site()
    sys.modules["__main__"] = _main_module(filename if is_file else None)
    os._exit(_finish(_status(source, compiled_name)))


def _main_module(filename: Optional[str]) -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=__builtins__, __annotations__={})
    if filename is not None:
        main.__dict__.update(__file__=filename, __cached__=None)
    return main


def _status(source: bytes, filename: str) -> int:
    """Run the code; the exit status that python3 would have."""
    try:
        # Nothing of ours holds the module: what it owns is finalised when it is dropped.
        exec(compile(source, filename, "exec", dont_inherit=True), sys.modules["__main__"].__dict__)
    except SystemExit as ending:
        if ending.code is None:
            return 0
        if isinstance(ending.code, int):
            return ending.code & 0xFF
        print(ending.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        _show(error)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        _show(error)
        return 1
    return 0


def _finish(status: int) -> int:
    """End as the interpreter does, as far as anybody can see; the exit status.

    A real finalisation would touch every page that is shared with the zygote. What a script
    can notice of it is done here: its threads are waited for, its exit functions run, its
    modules are emptied so that objects are finalised, buffered files are written.
    """
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    _flush_standard()
    _flush_files()
    for name in [name for name in sys.modules if name not in _fresh_modules]:
        del sys.modules[name]
    sys.modules.pop("__main__", None)
    gc.collect()
    _flush_files()
    # Python's own status for a standard output that could not be written (sys.exit docs).
    return status if _flush_standard() else 120


def _flush_files() -> None:
    """Write what buffered files still hold, before a collection closes them in any order."""
    for survivor in gc.get_objects():
        if isinstance(survivor, (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)):
            try:
                survivor.flush()
            except (OSError, ValueError):
                continue


def _flush_standard() -> bool:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except (OSError, ValueError):
            return False
    return True


def _show(error: BaseException) -> None:
    """Print a traceback without our own frames, by the hook that the script may have set."""
    if error.__traceback__ is not None:
        error = error.with_traceback(error.__traceback__.tb_next)
    sys.excepthook(type(error), error, error.__traceback__)


def _forget_ourselves(environment: Dict[str, str]) -> None:
    """Leave hooks and environment as a fresh interpreter has them."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.set_threshold(*_fresh_threshold)
    gc.enable()


def _add_user_site() -> None:
    """Add the identity's own site-packages, which the zygote was started without (site docs)."""
    if os.geteuid() == 0:
        return
    site.USER_BASE = site.USER_SITE = None
    directory = site.getusersitepackages()
    if os.path.isdir(directory):
        site.addsitedir(directory)
