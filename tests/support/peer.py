"""A scripted daemon on a real socket: the other end of the clients under test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shannotd.wire.decode import encode
from shannotd.wire.errors import ShannotError, UnknownMethod
from shannotd.wire.rpc import Decoder, Notification, Request, Response, pack

Handler = Callable[["Link", dict[str, Any]], Any]


class Link:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        self.raw(pack(Notification(method, encode(params))))  # type: ignore[arg-type]

    def raw(self, data: bytes) -> None:
        """Send any bytes."""
        self.connection.sendall(data)

    def close(self) -> None:
        """Drop the client."""
        self.connection.shutdown(socket.SHUT_RDWR)


class Peer:
    """Answers each method with the handler of its name; keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.handlers: dict[str, Handler] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.links: list[Link] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(self.path)
        self._listening.listen()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def answers(self, method: str, result: Any) -> None:
        """Always answer `method` with `result`, or with the error that it is."""

        def handler(link: Link, params: dict[str, Any]) -> Any:
            if isinstance(result, ShannotError):
                raise result
            return result

        self.handlers[method] = handler

    def asked(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every request of `method` so far."""
        return [params for name, params in self.requests if name == method]

    def stop(self) -> None:
        """Close everything."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for link in self.links:
            try:
                link.close()
            except OSError:
                pass  # the client was first
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            link = Link(connection)
            self.links.append(link)
            thread = threading.Thread(target=self._serve, args=(link,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, link: Link) -> None:
        decoder = Decoder()
        with link.connection:
            try:
                while data := link.connection.recv(65536):
                    for message in decoder.feed(data):
                        if isinstance(message, Request):
                            self._answer(link, message)
            except OSError:
                return

    def _answer(self, link: Link, request: Request) -> None:
        self.requests.append((request.method, request.params))
        handler = self.handlers.get(request.method)
        try:
            if handler is None:
                raise UnknownMethod(method=request.method)
            response = Response(request.id, None, encode(handler(link, request.params)))
        except ShannotError as error:
            response = Response(request.id, error.to_wire(), None)
        link.raw(pack(response))
