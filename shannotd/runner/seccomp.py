"""The system call filter of every sandboxed process, built by libseccomp and kept as BPF.

In the spirit of the container engines' default: a list of what programs need, everything
else fails. On top of theirs nothing may make a user namespace, use io_uring, keyrings, bpf,
perf or a foreign architecture, or reach a socket family that network namespaces do not
confine. Calls that a reviewer wants to know of go to a listener (notifier.py).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import List, Sequence, Tuple

# seccomp.h of libseccomp 2.5
_ALLOW = 0x7FFF0000
_NOTIFY = 0x7FC00000
_KILL_PROCESS = 0x80000000
_ATTRIBUTE_BAD_ARCHITECTURE = 2
_ATTRIBUTE_NO_NEW_PRIVS = 3
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
_EQUAL, _NOT_EQUAL, _MASKED_EQUAL = 4, 1, 7

ALLOWED = (
    "accept accept4 access alarm arch_prctl brk cachestat capget capset chdir chmod chown "
    "clock_getres clock_gettime clock_nanosleep close close_range copy_file_range creat dup dup2 "
    "dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait "
    "epoll_wait_old eventfd eventfd2 exit exit_group faccessat faccessat2 "
    "fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl "
    "fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync "
    "ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_mempolicy "
    "get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid "
    "getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom "
    "getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday "
    "getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl "
    "io_destroy io_getevents io_pgetevents io_submit ioprio_get ioprio_set kill "
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link "
    "linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise "
    "map_shadow_stack mbind "
    "membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap "
    "mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal "
    "msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep "
    "newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc "
    "pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 process_madvise "
    "process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv "
    "recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 "
    "restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo "
    "rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max "
    "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
    "sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler "
    "sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg "
    "set_mempolicy set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid "
    "setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid "
    "setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd "
    "signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee "
    "tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime "
    "timerfd_create timerfd_gettime timerfd_settime times tkill truncate ugetrlimit umask uname "
    "unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid waitpid write writev"
).split()

# Refused with EPERM and told to the listener, which records them for the reviewer.
REPORTED = (
    "acct clock_adjtime clock_settime adjtimex delete_module finit_module init_module fsmount "
    "fsopen kexec_file_load kexec_load mount mount_setattr move_mount open_tree pivot_root "
    "quotactl reboot sethostname setdomainname setns settimeofday swapoff swapon syslog umount2 "
    "umount ptrace process_vm_writev chroot vhangup iopl ioperm"
).split()

# Allowed, and told to the listener first (the network namespace is the boundary; what starts
# runs in the sandbox).
EXECUTIONS = ("execve", "execveat")
# After io_setup the kernel may write to a script's memory when it has ended (ending.py).
ASYNCHRONOUS = "io_setup"
WATCHED = ("connect", "bind", ASYNCHRONOUS, *EXECUTIONS)

# Newer calls whose callers fall back where they see ENOSYS; clone3's flags are out of a filter's
# reach (they are in memory), glibc then uses clone.
UNKNOWN = "clone3 io_uring_setup io_uring_enter io_uring_register".split()

# The only families that a network namespace (or the filesystem) confines. AF_VSOCK would
# reach the hypervisor, AF_ALG and the like enlarge what of the kernel can be attacked.
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
# SOCK_STREAM and SOCK_DGRAM; IPPROTO_IP, ICMP, TCP, UDP, ICMPV6, MPTCP.
_STREAM, _DATAGRAM = 1, 2
_PROTOCOLS = (0, 1, 6, 17, 58, 262)
# NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT, NETLINK_GENERIC (linux/netlink.h).
_OBSERVED_NETLINK = (0, 4, 15, 16)
# SYSLOG_ACTION_READ_ALL and SYSLOG_ACTION_SIZE_BUFFER: syslog(2).
_SYSLOG_READ = (3, 10)
_SYSTEM_V = (
    "msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget"
).split()
_QUEUES = "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink".split()
# All that a socket is good for but ioctl(2).
_SOCKET_USES = (
    "accept accept4 getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg "
    "sendmsg setsockopt shutdown"
).split()
REACHES = ("tables", "sockets", "interfaces")
# Which argument is the command, and those that only look: IPC_STAT, IPC_INFO and each one's own
# *_STAT, *_INFO and *_STAT_ANY (linux/ipc.h, msg.h, sem.h, shm.h).
_SYSTEM_V_LOOKS = {
    "msgctl": (1, (2, 3, 11, 12, 13)),
    "semctl": (2, (2, 3, 18, 19, 20)),
    "shmctl": (1, (2, 3, 13, 14, 15)),
}
_CLONE_NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW* and CLONE_NEWTIME


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    ]


def load_library() -> ctypes.CDLL:
    """libseccomp.

    :raises OSError: it is not installed.
    """
    library = ctypes.CDLL("libseccomp.so.2")  # of libseccomp 2, whatever its version
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    ]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


class _Filter:
    """A libseccomp filter context while rules are added."""

    def __init__(self, default: int) -> None:
        self._library = load_library()
        self._context = self._library.seccomp_init(default)
        if not self._context:
            raise OSError(errno.EINVAL, "seccomp_init failed")

    def attribute(self, name: int, value: int) -> None:
        self._raise(self._library.seccomp_attr_set(self._context, name, value), "attr_set")

    def add(self, action: int, call: str, comparisons: Sequence[Tuple[int, ...]] = ()) -> None:
        """A rule for `call`; names that this libseccomp or architecture lacks are left out."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (_Comparison * max(1, len(comparisons)))(*(_Comparison(*c) for c in comparisons))
        result = self._library.seccomp_rule_add_array(
            self._context, action, number, len(comparisons), ctypes.byref(array)
        )
        self._raise(result, f"rule {call}")

    def export(self) -> bytes:
        """The compiled BPF program."""
        descriptor = os.memfd_create("filter", os.MFD_CLOEXEC)
        try:
            self._raise(self._library.seccomp_export_bpf(self._context, descriptor), "export")
            os.lseek(descriptor, 0, os.SEEK_SET)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
            self._library.seccomp_release(self._context)

    def _raise(self, result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"libseccomp {what}: {os.strerror(-result)}")


def _error(code: int) -> int:
    return 0x00050000 | code


def compile_filter() -> bytes:
    """The BPF program that every sandboxed script gets; it needs a listener.

    :raises OSError: libseccomp is missing or refuses a rule.
    """
    rules = _common_rules()
    for call in (*REPORTED, *WATCHED):
        rules.add(_NOTIFY, call)
    _add_sockets(rules)
    return rules.export()


def compile_observe_filter(reach: str) -> bytes:
    """The BPF program of observed programs, whose refusals nobody listens to.

    They reach no peer, and of the host's shared memory, semaphores and queues they see what there
    is. `reach` is one of REACHES: with `tables` they read the kernel's tables by netlink; with
    `sockets` they also connect to those sockets of the host that a rule has put into their view;
    with `interfaces` they have instead the sockets on which ioctl(2) asks for interfaces, and
    nothing can be sent or received by any.

    :raises OSError: libseccomp is missing or refuses a rule.
    """
    interfaces = reach == "interfaces"
    without = (*_SYSTEM_V, *_QUEUES, *(_SOCKET_USES if interfaces else ()))
    rules = _common_rules(without)
    for call, (position, commands) in _SYSTEM_V_LOOKS.items():
        for command in commands:
            rules.add(_ALLOW, call, [(position, _EQUAL, command, 0)])
    for call in EXECUTIONS:
        rules.add(_ALLOW, call)
    for protocol in () if interfaces else _OBSERVED_NETLINK:
        rules.add(_ALLOW, "socket", [(0, _EQUAL, AF_NETLINK, 0), (2, _EQUAL, protocol, 0)])
    for family in (AF_INET, AF_INET6):
        if interfaces:
            kind = (1, _MASKED_EQUAL, 0xF, _DATAGRAM)
            rules.add(_ALLOW, "socket", [(0, _EQUAL, family, 0), kind, (2, _EQUAL, 0, 0)])
        else:
            rules.add(_error(errno.EAFNOSUPPORT), "socket", [(0, _EQUAL, family, 0)])
    # A pair of datagram sockets could still send to an address, one of streams cannot.
    pair = [(0, _EQUAL, AF_UNIX, 0), (1, _MASKED_EQUAL, 0xF, _STREAM)]
    rules.add(_ALLOW, "socketpair", pair)
    unix = _ALLOW if reach == "sockets" else _error(errno.EAFNOSUPPORT)
    rules.add(unix, "socket", [(0, _EQUAL, AF_UNIX, 0)])
    if reach == "sockets":
        rules.add(_ALLOW, "connect")
    for call in () if interfaces else ("bind", "sendto"):  # netlink's
        rules.add(_ALLOW, call)
    for action in _SYSLOG_READ:
        rules.add(_ALLOW, "syslog", [(0, _EQUAL, action, 0)])
    return rules.export()


def _common_rules(without: Sequence[str] = ()) -> _Filter:
    rules = _Filter(_error(errno.EPERM))
    rules.attribute(_ATTRIBUTE_BAD_ARCHITECTURE, _KILL_PROCESS)
    rules.attribute(_ATTRIBUTE_NO_NEW_PRIVS, 0)
    rules.attribute(_ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
    for call in ALLOWED:
        if call not in without:
            rules.add(_ALLOW, call)
    for call in UNKNOWN:
        rules.add(_error(errno.ENOSYS), call)
    _add_conditional(rules)
    return rules


def _add_sockets(rules: _Filter) -> None:
    rules.add(_ALLOW, "socket", [(0, _EQUAL, AF_UNIX, 0)])
    # For any other type or protocol the kernel would start modprobe on the host.
    for family in (AF_INET, AF_INET6):
        for kind in (_STREAM, _DATAGRAM):
            for protocol in _PROTOCOLS:
                kind_only = (1, _MASKED_EQUAL, 0xF, kind)
                rules.add(
                    _ALLOW, "socket", [(0, _EQUAL, family, 0), kind_only, (2, _EQUAL, protocol, 0)]
                )
    rules.add(_ALLOW, "socket", [(0, _EQUAL, AF_NETLINK, 0), (2, _EQUAL, 0, 0)])
    # As by a kernel that has no such thing: useradd goes on without audit only if it hears so.
    no_protocol = _error(errno.EPROTONOSUPPORT)
    rules.add(no_protocol, "socket", [(0, _EQUAL, AF_NETLINK, 0), (2, _NOT_EQUAL, 0, 0)])
    rules.add(_ALLOW, "socketpair", [(0, _EQUAL, AF_UNIX, 0)])
    # With an address sendto reaches out by itself; without one the socket is connected.
    rules.add(_ALLOW, "sendto", [(4, _EQUAL, 0, 0)])
    rules.add(_NOTIFY, "sendto", [(4, _NOT_EQUAL, 0, 0)])


def _add_conditional(rules: _Filter) -> None:
    no_namespaces: List[Tuple[int, ...]] = [(0, _MASKED_EQUAL, _CLONE_NAMESPACES, 0)]
    rules.add(_ALLOW, "clone", no_namespaces)
    # Only what leaves address space randomisation or the default domain alone or asks for it.
    for persona in (0x0, 0x40000, 0xFFFFFFFF):
        rules.add(_ALLOW, "personality", [(0, _EQUAL, persona, 0)])
    # RLIMIT_CORE (4) is ours alone (script.py). Others are told that it was set: a shell's
    # `ulimit -c 0` is no failure. The masks let through what has not just that bit.
    rules.add(_ALLOW, "prlimit64", [(2, _EQUAL, 0, 0)])
    for call, argument in (("setrlimit", 0), ("prlimit64", 1)):
        rules.add(_ALLOW, call, [(argument, _MASKED_EQUAL, 4, 0)])
        for bit in (1, 2, 8):
            rules.add(_ALLOW, call, [(argument, _MASKED_EQUAL, bit, bit)])
    rules.add(_error(0), "setrlimit", [(0, _MASKED_EQUAL, 0xF, 4)])
    rules.add(_error(0), "prlimit64", [(1, _MASKED_EQUAL, 0xF, 4), (2, _NOT_EQUAL, 0, 0)])
