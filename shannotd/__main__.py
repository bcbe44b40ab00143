"""`shannotd`: arguments, configuration, run."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from shannotd.service import Options, serve, tell_starter, version
from shannotd.wire.errors import ShannotError
from shannotd.wire.text import visible

_SERVICE_SOCKET = Path("/run/shannot/shannotd.sock")
_SERVICE_STATE = Path("/var/lib/shannot")
_SERVICE_CONFIG = Path("/etc/shannot/shannotd.toml")
_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; the exit status of the process."""
    parsed = _parser().parse_args(arguments)
    _set_up_logging(parsed.log_level)
    options = Options(
        embedded=parsed.embedded,
        socket=parsed.socket or (_embedded_socket() if parsed.embedded else _SERVICE_SOCKET),
        state=parsed.state,
        config=parsed.config or (_embedded_config() if parsed.embedded else _SERVICE_CONFIG),
        config_required=parsed.config is not None,
    )
    try:
        serve(options, _embedded_state() if parsed.embedded else _SERVICE_STATE)
    except ShannotError as error:
        tell_starter(error)
        print(f"shannotd: {visible(str(error))}", file=sys.stderr)
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shannotd",
        description="Dry-runs scripts and applies the plans that people approve.",
    )
    parser.add_argument("--version", action="version", version=f"shannotd {version()}")
    parser.add_argument(
        "--embedded", action="store_true", help="serve this account only, and end when idle"
    )
    parser.add_argument("--socket", type=_absolute, metavar="PATH", help="where to listen")
    parser.add_argument("--state", type=_absolute, metavar="DIRECTORY", help="where to keep all")
    parser.add_argument("--config", type=_absolute, metavar="FILE", help="the configuration")
    parser.add_argument("--log-level", choices=_LEVELS, default="info")
    return parser


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def _home() -> Path:
    return Path(os.environ.get("HOME") or "~").expanduser()


def _xdg(variable: str, default: str) -> Path:
    """A base directory: the variable's, where it is absolute as the specification wants."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else _home() / default


def _embedded_state() -> Path:
    return _xdg("XDG_STATE_HOME", ".local/state") / "shannot"


def _embedded_socket() -> Path:
    chosen = os.environ.get("SHANNOT_SOCKET")
    if chosen:
        return _absolute(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _is_own_directory(Path(runtime)):
        return Path(runtime) / "shannot" / "shannotd.sock"
    return _embedded_state() / "run" / "shannotd.sock"


def _is_own_directory(path: Path) -> bool:
    # After `su` or `sudo -E` the variable still names the other account's directory.
    try:
        return path.is_dir() and path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _embedded_config() -> Path:
    return _xdg("XDG_CONFIG_HOME", ".config") / "shannot" / "shannotd.toml"


class _Formatter(logging.Formatter):
    """One record, one line, with nothing in it that could pass for another or for nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows it, indented."""
        line = f"{record.levelname.lower()}: {visible(record.getMessage())}"
        if record.exc_info:
            traceback = visible(self.formatException(record.exc_info), keep="\n")
            line += "\n  " + traceback.replace("\n", "\n  ")
        return line


def _set_up_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(handlers=[handler], level=level.upper())


if __name__ == "__main__":
    sys.exit(main())
