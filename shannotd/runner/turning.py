"""Has a process that waits in execve(2) for the answer of a listener execute something else.

A listener can refuse a call or let it go on, not change it (seccomp_unotify(2)). So the waiting
thread is seized for a moment (ptrace(2)): its call is interrupted and begun again, as every call is
that a signal interrupts, but with other registers. Nothing is written to its memory, which may be
its parent's too (vfork(2)). How a call is begun again is in the kernel's arch/*/kernel/signal.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from dataclasses import dataclass
from typing import Callable, Optional, Sequence, Tuple

# What a call returns that is to begin again, whatever signal came (linux/errno.h).
ERESTARTNOINTR = 513
_RESTARTED = (512, ERESTARTNOINTR, 514, 516)

# How long a thread may take to stop: it does at once, unless the machine swaps.
PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.00005

# linux/ptrace.h, linux/elf.h, linux/wait.h
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_GET_REGISTERS, _SET_REGISTERS, _PRSTATUS = 0x4204, 0x4205, 1
_EVENT_STOP = 128
_WALL = 0x40000000
_WORD = 2**64


@dataclass(frozen=True)
class _Machine:
    """Which of a thread's registers (of `count`) hold a call's number, its arguments and what it
    returns; `result` is None where they are as at the call's beginning before a tracer sees them.
    `execveat` is the number of execveat(2)."""

    count: int
    number: int
    arguments: Tuple[int, ...]
    result: Optional[int]
    execveat: int


# struct user_regs_struct and struct user_pt_regs of asm/ptrace.h.
_MACHINES = {
    "x86_64": _Machine(27, 15, (14, 13, 12, 7, 9), 10, 322),
    "aarch64": _Machine(34, 8, (0, 1, 2, 3, 4), None, 281),
}


class _Buffer(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def turn(
    pid: int, waiting: Sequence[int], instead: Sequence[int], answer: Callable[[int], None]
) -> bool:
    """Have the thread `pid`, which waits in a call with the arguments `waiting`, begin execveat
    with the arguments `instead`.

    `answer` answers its notification with an errno. False where it is gone, or a signal came
    first: whatever is left of it makes its own call once more.

    :raises OSError: it may not be traced, or does not stop.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        raise OSError(errno.ENOSYS, f"ptrace: no registers known for {os.uname().machine}")
    try:
        _ptrace(_SEIZE, pid)
        _ptrace(_INTERRUPT, pid)
        answer(ERESTARTNOINTR)
        status = _wait(pid)
        if not os.WIFSTOPPED(status):
            return False
        interrupted = status >> 16 == _EVENT_STOP
        turned = interrupted and _change(pid, machine, waiting, instead)
        # Any other stop is that of a signal, which it is to get.
        _ptrace(_DETACH, pid, 0 if interrupted else os.WSTOPSIG(status))
    except ProcessLookupError:
        _take_end(pid)
        return False
    return turned


def _take_end(pid: int) -> None:
    """Wait for a thread that was killed, if it is traced: its parent learns of its end only then.

    :raises OSError: it does not end.
    """
    try:
        while os.WIFSTOPPED(_wait(pid)):
            pass
    except ProcessLookupError:
        pass  # it was not


def _change(pid: int, machine: _Machine, waiting: Sequence[int], instead: Sequence[int]) -> bool:
    """Change the registers, if they are those of the call that is to begin again."""
    registers = (ctypes.c_uint64 * machine.count)()
    buffer = _Buffer(ctypes.addressof(registers), ctypes.sizeof(registers))
    _ptrace(_GET_REGISTERS, pid, ctypes.addressof(buffer), _PRSTATUS)
    found = [registers[number] for number in machine.arguments]
    if found[: len(waiting)] != list(waiting[: len(found)]):
        return False
    if machine.result is not None:
        if _WORD - registers[machine.result] not in _RESTARTED:
            return False
        registers[machine.result] = _WORD - ERESTARTNOINTR
    registers[machine.number] = machine.execveat
    for number, value in zip(machine.arguments, instead):
        registers[number] = value
    _ptrace(_SET_REGISTERS, pid, ctypes.addressof(buffer), _PRSTATUS)
    return True


def _wait(pid: int) -> int:
    """The status with which it stops, or ends.

    :raises TimeoutError: it does neither.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            found, status = os.waitpid(pid, _WALL | os.WNOHANG)
        except ChildProcessError:
            raise ProcessLookupError(errno.ESRCH, "waitpid: it is gone") from None
        if found:
            return status
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "ptrace: a process does not stop")
        time.sleep(_PAUSE_SECONDS)


def _ptrace(request: int, pid: int, data: int = 0, address: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace: {os.strerror(code)}")


def check() -> None:
    """See that a process may be followed as `turn` has to.

    :raises OSError: it may not.
    """
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    try:
        _ptrace(_SEIZE, child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
