"""The zygote: a bare interpreter of the host that forks supervisors on request.

Single-threaded, without secrets, with no descriptor but its control channel. It is started
isolated, by path: `python3 -s zygote.py FD STATE HIDDEN...`, in a clean environment, by the
host's own python3, so that scripts find the host's modules. A message on the channel carries one
end of a supervisor's control channel, or a file that says what most jobs hide and about which
programs they ask.
"""

import sys

_MAX_REQUEST_BYTES = 64
# A supervisor serves one job: to search what it keeps again and again would take a tenth of it.
_COLLECTIONS = (200_000, 50, 100)
_FRESH = (frozenset(sys.modules), [path for path in sys.path[1:] if path])


def main() -> None:
    """Serve until the runner closes the channel."""
    import contextlib
    import dataclasses
    import gc
    import json
    import os
    import signal

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[0] = package
    from shannotd.runner import (
        cgroups,
        identity,
        kernel,
        observe,
        python,
        sandbox,
        seccomp,
        shims,
        supervisor,
        warm,
    )
    from shannotd.runner.frames import Channel, RunnerError
    from shannotd.runner.usual import Usual

    python.prepare(*_FRESH)
    observe.prepare()
    with contextlib.suppress(RunnerError):  # a sandbox's supervisor says so
        identity.read_floor()
    shims.library()  # compiled once for all
    control, state, hidden = int(sys.argv[1]), sys.argv[2], sys.argv[2:]
    settings = warm.Settings(
        builder=sandbox.choose_builder(),
        program=seccomp.compile_filter(),
        state=state,
        hidden=tuple(hidden),
        cgroup_base=cgroups.arrange(),
    )
    import socket

    requests = socket.socket(fileno=control)
    # Supervisors are nobody's to wait for: the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.disable()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 1)
        if not message:
            os._exit(0)
        if message == b"expect":
            with open(descriptors[0], "rb") as file:
                file.seek(0)
                usual = Usual.decode(json.load(file))
            settings = dataclasses.replace(settings, usual=usual)
            continue
        if os.fork() == 0:
            os.dup2(descriptors[0], 3)
            kernel.close_range(4)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            gc.enable()
            gc.set_threshold(*_COLLECTIONS)
            supervisor.main(Channel(socket.socket(fileno=3)), settings)
        os.close(descriptors[0])


if __name__ == "__main__":
    main()
