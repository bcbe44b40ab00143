"""What one session's script changes, taken whenever a command comes and at the end.

At a barrier the sandbox stands still while its layers are read. Contents are copied then, since
the script goes on to change its files.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional, Set, Tuple

from shannotd.runner.capture import Recorded, Step, capture
from shannotd.runner.compare import Content
from shannotd.runner.delta import History
from shannotd.runner.frames import Header, RunnerError
from shannotd.runner.freezer import frozen, shares_files
from shannotd.runner.layer import TRUSTED, USER, Layer, failed_by, is_overlays, script_xattrs
from shannotd.runner.plan import Identity, StepNote
from shannotd.runner.sandbox import ONE_UID
from shannotd.runner.uppers import open_upper

if TYPE_CHECKING:
    from shannotd.runner.mounts import Overlay
    from shannotd.runner.warm import Settings, Warm


@dataclass(frozen=True)
class Delta:
    """What changed since the last one: steps, what to show beside each, and those contents that
    no earlier one had, which can be read as long as the Recorder is not closed."""

    steps: Tuple[Step, ...]
    notes: Tuple[StepNote, ...]
    contents: Dict[str, Content]


class Recorder:
    """Takes the deltas of one session; owns the contents of all until it is closed.

    The contents of scratch come along once there was a barrier: a later command may name it.
    """

    def __init__(
        self,
        warm: Warm,
        request: Header,
        identity: Identity,
        settings: Settings,
        started_ns: int,
    ) -> None:
        """`request` is the daemon's job; `started_ns` is when the script began (time_ns)."""
        self._warm = warm
        self._request = request
        self._identity = identity
        self._prefix = USER if settings.builder == ONE_UID else TRUSTED
        self._started_ns = started_ns
        self._history = History()
        self._touched: Set[str] = set()
        self._contents: Set[str] = set()
        self._held_bytes = 0
        self._held = ExitStack()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all contents."""
        self._held.close()

    def barrier(self) -> Delta:
        """What was changed since the last barrier; the script stands still meanwhile.

        :raises RunnerError: `capture_failed` or `limit_exceeded`.
        """
        with frozen(self._warm):
            shared = shares_files(self._warm)
            with self._layers() as layers, self._capture(layers, keep_scratch=True) as recorded:
                contents = self._new(recorded.contents)
                held = {sha256: self._hold(content) for sha256, content in contents.items()}
        self._history = recorded.history
        if shared:
            # Then no version tells that a file is as it was.
            self._history = replace(self._history, captured_ns=0)
        return Delta(recorded.steps, recorded.notes, held)

    def finish(self, starting: Callable[[], object] = lambda: None) -> Delta:
        """What was changed since the last barrier, when nothing of the sandbox runs any more.

        `starting` is called before what may take its time.

        :raises RunnerError: `capture_failed` or `limit_exceeded`.
        """
        layers = self._held.enter_context(self._layers())
        if layers:
            starting()
        recorded = self._capture(layers, keep_scratch=self._history.begun)
        self._held.enter_context(recorded)
        contents = self._new(recorded.contents)
        if self._history.begun:
            for content in contents.values():
                self._count(content)
        return Delta(recorded.steps, recorded.notes, contents)

    def _capture(self, layers: List[Layer], *, keep_scratch: bool) -> Recorded:
        return capture(
            layers,
            started_ns=self._started_ns,
            scratch=self._request["scratch"],
            identity=self._identity,
            limits=self._request["limits"],
            history=self._history,
            keep_scratch=keep_scratch,
            passwords=self._warm.passwords,
        )

    # Contents.

    def _new(self, contents: Dict[str, Content]) -> Dict[str, Content]:
        found = {sha: content for sha, content in contents.items() if sha not in self._contents}
        self._contents.update(found)
        return found

    def _count(self, content: Content) -> None:
        """What all deltas hold together is bounded like what the script may have written."""
        self._held_bytes += content.size
        limit = self._request["limits"]["written_bytes"]
        if self._held_bytes > limit:
            raise RunnerError("limit_exceeded", name="written_bytes", limit=limit)

    def _hold(self, content: Content) -> Content:
        """The content where the script cannot change it."""
        self._count(content)
        if content.data is not None:
            return content
        copy = os.memfd_create("content", os.MFD_CLOEXEC)
        self._held.callback(os.close, copy)
        source = content.open()
        try:
            position = 0
            while position < content.size:
                sent = os.sendfile(copy, source, content.offset + position, content.size - position)
                if not sent:
                    break
                position += sent
        finally:
            os.close(source)
        return replace(content, offset=0, copy=copy)

    # Layers.

    @contextmanager
    def _layers(self) -> Iterator[List[Layer]]:
        """The upper layers in which the script left a trace, now or before."""
        with ExitStack() as opened:
            layers: List[Layer] = []
            for overlay in self._warm.blueprint.overlays:
                if overlay.path in self._warm.blueprint.empty:
                    continue
                try:
                    layer = self._open(overlay, opened)
                except OSError as error:
                    raise failed_by(error, overlay.path) from error
                if layer is not None:
                    self._touched.add(overlay.path)
                    layers.append(layer)
            yield layers

    def _open(self, overlay: Overlay, opened: ExitStack) -> Optional[Layer]:
        """The upper layer of `overlay` as capture wants it; None where there is no trace.

        An ordinary runner owns the upper directory yet may lack the right to read it (the host's
        mode is mirrored there): it has the right meanwhile.
        """
        name = f"upper/{overlay.index}"
        stage = self._warm.stage
        expected = overlay.root_mode
        held = self._warm.uppers.rewound(overlay)
        if held is not None and self._is_untouched(held, expected, overlay):
            return None
        mode = stat.S_IMODE(os.stat(name, dir_fd=stage, follow_symlinks=False).st_mode)
        if os.geteuid() != 0 and mode & 0o700 != 0o700:
            if mode != expected:
                reason = "the script changed its mode so that it cannot be read"
                raise RunnerError("capture_failed", path=overlay.path, reason=reason)
            expected = mode | 0o700
            os.chmod(name, expected, dir_fd=stage)
            opened.callback(os.chmod, name, mode, dir_fd=stage)
        upper = open_upper(stage, overlay)
        opened.callback(os.close, upper)
        if self._is_untouched(upper, expected, overlay):
            return None
        given = self._warm.uppers.given.get(overlay.index, {})
        return Layer(overlay.path, upper, self._prefix, expected, overlay.root_owner, given)

    def _is_untouched(self, upper: int, mode: int, overlay: Overlay) -> bool:
        """Whether nothing was ever copied up into the layer, and its root is as it was made.

        Any change below needs an entry in the root.
        """
        if overlay.path in self._touched:
            return False
        status = os.fstat(upper)
        found = (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))
        if found != (mode, overlay.root_owner) or os.listdir(upper):
            return False
        given = self._warm.uppers.given.get(overlay.index, {})
        if not given and all(is_overlays(name, self._prefix) for name in os.listxattr(upper)):
            return True  # as are most: no attribute need be read
        return script_xattrs(Layer(overlay.path, upper, self._prefix), upper) == given
