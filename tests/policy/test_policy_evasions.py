"""What is denied stays denied, however the call is written (P1)."""

from __future__ import annotations

import itertools
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.commands import decide, deniable
from shannotd.policy.patterns import command_pattern
from shannotd.policy.profiles import Profile
from shannotd.runner.names import Denied
from shannotd.wire.decision import Decision, ProgramCall
from tests.support.calls import DEFAULT, call, profile, verdict

pytestmark = pytest.mark.P1

DENIED = [
    # order, combination, length
    ("rm -rf /*", "rm -rf /etc"),
    ("rm -rf /*", "rm -fr /etc"),
    ("rm -rf /*", "rm -r -f /etc"),
    ("rm -rf /*", "rm -f -r /etc"),
    ("rm -rf /*", "rm -Rf /etc"),
    ("rm -rf /*", "rm --recursive --force /etc"),
    ("rm -rf /*", "rm --force --recursive /etc"),
    ("rm -rf /*", "rm --rec --fo /etc"),
    ("rm -rf /*", "rm --r --f /etc"),
    ("rm -rf /*", "rm -r --force /etc"),
    ("rm -rf /*", "rm -rfv /etc"),
    ("rm -rf /*", "rm -v -rf -I /etc"),
    ("rm -rf /*", "rm /etc -rf"),
    ("rm -rf /*", "rm -r /etc -f"),
    ("rm -rf /*", "rm -rf -- /etc"),
    ("rm -rf /*", "rm -rf --one-file-system /etc"),
    ("rm -rf /*", "rm -rf --no-preserve-root /"),
    ("rm --recursive --force /*", "rm -rf /etc"),
    ("rm -r -f /*", "rm -fr /etc"),
    # the path
    ("rm -rf /*", "rm -rf /etc/"),
    ("rm -rf /*", "rm -rf //etc"),
    ("rm -rf /*", "rm -rf /./etc"),
    ("rm -rf /*", "rm -rf /usr/../etc"),
    ("rm -rf /*", "rm -rf /etc/nginx/.."),
    ("rm -rf /*", "rm -rf ../etc"),
    ("rm -rf /*", "rm -rf .."),
    ("rm -rf /*", "rm -rf ."),
    ("rm -rf /*", "rm -rf /tmp/a/b /etc"),
    ("rm -rf /*", "rm -rf /etc /tmp/a/b"),
    ("rm -rf /srv/**", "rm -rf /srv/a/b/c"),
    # the program
    ("rm -rf /*", "/bin/rm -rf /etc"),
    ("rm -rf /*", "/usr/bin/rm -rf /etc"),
    ("rm -rf /*", "/tmp/rm -rf /etc"),
    ("/bin/rm -rf /*", "/usr/bin/rm -rf /etc"),
    ("/usr/bin/rm -rf /*", "/bin/rm -rf /etc"),
    ("/usr/bin/rm -rf /*", "rm -rf /etc"),
    ("r? -rf /*", "rm -rf /etc"),
    ("mkfs*", "mkfs.ext4 /dev/sda"),
    ("mkfs*", "/sbin/mkfs.xfs -f /dev/sda"),
    # wrappers
    ("rm -rf /*", "busybox rm -rf /etc"),
    ("rm -rf /*", "/bin/busybox rm -fr /etc"),
    ("rm -rf /*", "toybox rm -rf /etc"),
    ("rm -rf /*", "env rm -rf /etc"),
    ("rm -rf /*", "env -i A=1 rm -rf /etc"),
    ("rm -rf /*", "env -- rm -rf /etc"),
    ("rm -rf /*", "sudo rm -rf /etc"),
    ("rm -rf /*", "sudo -u root -- /bin/rm -rf /etc"),
    ("rm -rf /*", "nice -n 5 rm -rf /etc"),
    ("rm -rf /*", "timeout -k 1 5 rm -rf /etc"),
    ("rm -rf /*", "nohup setsid rm -rf /etc"),
    ("rm -rf /*", "xargs -n1 rm -rf /etc"),
    ("rm -rf /*", "chroot / rm -rf /etc"),
    ("rm -rf /*", "nsenter -t 1 -a rm -rf /etc"),
    ("rm -rf /*", "/lib64/ld-linux-x86-64.so.2 /bin/rm -rf /etc"),
    ("rm -rf /*", "systemd-run --wait rm -rf /etc"),
    # options with values
    ("git push --force", "git push -f"),
    ("git push --force", "git -C /srv push --force origin main"),
    ("git push --force", "git push origin --forc main"),
    ("systemctl stop sshd", "systemctl --no-block stop sshd"),
    ("systemctl stop sshd", "systemctl stop nginx sshd"),
    ("systemctl stop sshd", "systemctl -H other stop sshd"),
    ("systemctl stop *", "systemctl stop"),
    ("sort --output=/etc/*", "sort --output=/etc/passwd x"),
    ("sort --output=/etc/*", "sort --output /etc/passwd x"),
    ("sort --output=/etc/*", "sort --out=/etc/passwd x"),
    ("sort --output=/etc/*", "sort -o /etc/passwd x"),
    ("sort --output=/etc/*", "sort -o/etc/passwd x"),
    ("sort --output=/etc/*", "sort -uo/etc/passwd x"),
    ("sort --output=/etc/*", "sort -o ../etc/passwd x"),
    ("head -n5", "head -n5 x"),
    ("head -n5", "head -n 5 x"),
    ("head -n5", "head -qn5 x"),
    ("head -n5", "head x -n 5"),
    ("dd of=/dev/*", "dd if=/dev/zero of=/dev/sda bs=1M"),
    ("dd of=/dev/*", "dd of=//dev/sda if=x"),
    ("dd of=/dev/*", "dd of=../dev/sda if=x"),
    ("find * -delete", "find / -name x -delete"),
    ("docker run * --privileged", "docker run --rm --privileged x"),
    ("kubectl exec * rm *", "kubectl exec pod -- rm x"),
    ("reboot", "reboot"),
    ("reboot", "reboot -f"),
    ("reboot", "/sbin/reboot --force"),
    ("reboot *", "reboot"),
    ("* --force", "anything --force"),
    ("tool 'two words'", "tool 'two words' x"),
]

ALLOWED = [
    ("rm -rf /*", "rm -rf /srv/data"),
    ("rm -rf /*", "rm -rf /tmp/x/y"),
    ("rm -rf /*", "rm -r /etc"),
    ("rm -rf /*", "rm -f /etc"),
    ("rm -rf /*", "rm --verbose /etc"),
    ("rm -rf /*", "rm -rf x"),
    ("rm -rf /srv/**", "rm -rf /srvx"),
    ("rm *", "rmdir /etc"),
    ("rm *", "ls rm"),
    ("cat *", "truncate -s 0 x"),
    ("mkfs*", "ls mkfs"),
    ("git push --force", "git push"),
    ("git push --force", "git push --force-with-lease"),
    ("systemctl stop sshd", "systemctl start sshd"),
    ("systemctl stop sshd", "systemctl stop nginx"),
    ("find * -delete", "find / -depth -type l"),
    ("/opt/bin/rm *", "rm -rf x"),
    ("dd of=/dev/*", "dd if=/dev/zero of=/tmp/x"),
    ("tool 'two words'", "tool two words"),
]


@pytest.mark.parametrize(("pattern", "text"), DENIED)
def test_a_denied_call_is_denied_however_it_is_written(pattern: str, text: str) -> None:
    found = verdict(text, profile(deny=(pattern,)))
    assert found.decision is Decision.DENY
    assert found.rule == f"always_deny: {pattern}", "and it is this pattern that denies it"


@pytest.mark.parametrize(("pattern", "text"), ALLOWED)
def test_another_call_is_not_denied(pattern: str, text: str) -> None:
    # Some of these the package's own rules deny.
    assert not verdict(text, profile(deny=(pattern,))).rule.startswith("always_deny")


def test_there_are_enough_evasions() -> None:
    assert len(DENIED) >= 60


def test_a_program_is_known_by_every_name_it_has() -> None:
    under = profile(deny=("vim *",))
    linked = call("vi x", program="/usr/bin/vim")
    assert decide(linked, under).decision is Decision.DENY
    renamed = ProgramCall("/usr/bin/ls", "/usr/bin/busybox", ("rm", "-rf", "/etc"))
    assert decide(renamed, DEFAULT).decision is Decision.DENY


def test_one_file_of_many_programs_is_none_of_the_others() -> None:
    under = profile(deny=("busybox *",))
    assert decide(call("ls x", program="/bin/busybox"), under).decision is Decision.CONTAIN
    assert decide(call("busybox ls"), under).decision is Decision.DENY


@pytest.mark.parametrize(
    "text",
    [
        "rm -rf /",
        "rm -r /etc/",
        "rm -rf /usr/lib",
        "rm --no-preserve-root -rf /srv",
        "chmod -R 777 /",
        "chown --recursive bob /",
        "shannotctl approve abcd",
        "sudo shannotctl approve abcd",
    ],
)
def test_denied_without_any_configuration(text: str) -> None:
    found = verdict(text)
    assert found.decision is Decision.DENY
    assert found.reason


@pytest.mark.parametrize("text", ["rm -rf /srv/www", "rm /etc/motd", "chmod -R 755 /srv", "ls /"])
def test_everyday_calls_are_not_denied(text: str) -> None:
    assert verdict(text).decision is Decision.CONTAIN


def test_nothing_lowers_a_denial() -> None:
    under = profile(deny=("systemctl stop *",), approve=("systemctl stop *", "rm *"))
    assert verdict("systemctl stop x", under).decision is Decision.DENY
    assert verdict("rm -rf /", under).decision is Decision.DENY


def test_what_may_be_denied_and_by_which_options() -> None:
    denying = (
        "/usr/sbin/reboot",
        "mkfs*",
        "git push --force",
        "nice -n -20 *",
        "tar -x *",
        "tar c",
    )
    found = deniable(profile(deny=denying))
    assert {name: found.get(name) for name in ("rm", "chmod", "shannotctl", "git", "ls")} == {
        "rm": "Rnr",
        "chmod": "Rr",
        "shannotctl": "",
        "git": "f",
        "ls": None,
    }
    # Any call of it, of many programs, of what starts another, by one of two rules.
    assert [found[name] for name in ("reboot", "mkfs*", "busybox", "nice", "tar")] == [""] * 5


def is_asked(argv: list[str], under: Profile) -> bool:
    """Whether a runner asks about a start of that program."""
    return Denied(tuple(deniable(under).items())).may_be(argv[0], argv[1:])


@pytest.mark.parametrize(("pattern", "text"), DENIED)
def test_what_is_denied_is_asked_about(pattern: str, text: str) -> None:
    one = call(text)
    under = profile(deny=(pattern,))
    name = posixpath.basename(one.path)
    # Where it only starts the program that is denied, that one is asked about.
    if decide(one, under).decision is Decision.DENY and name in deniable(under):
        assert is_asked([name, *one.argv[1:]], under)


WORDS = ["-", "--", "-r", "-fR", "-n5", "--rec", "--Recursive", "--no-pres", "-x=/", "/", "/etc"]


@given(
    st.sampled_from(["rm", "chmod", "find", "dd"]),
    st.lists(st.one_of(st.sampled_from(WORDS), st.text("-rRnNxf=/ ", max_size=6)), max_size=5),
)
def test_whatever_can_be_denied_is_asked_about(name: str, arguments: list[str]) -> None:
    under = profile(deny=("rm --one=/etc", "find * -exec *", "find -delete", "dd -Nx of=/*"))
    argv = (name, *arguments)
    one = ProgramCall(f"/usr/bin/{name}", f"/usr/bin/{name}", argv, "/", as_root=True)
    if decide(one, under).decision is Decision.DENY:
        assert is_asked(list(argv), under)


@pytest.mark.parametrize(
    "text", ["rm -f /etc/motd", "rm file", "rm -v -- -r", "chmod 644 file", "chmod -v a-r file"]
)
def test_everyday_calls_need_no_question(text: str) -> None:
    argv = text.split()
    asked = is_asked(argv, DEFAULT)
    assert asked is ("--" in argv)  # that a word after it is no option, only policy knows
    assert decide(call(text), DEFAULT).decision is not Decision.DENY


# What writes, changes, signals, starts another program, reads a file that is named, reaches another
# host, or never ends: options of programs that are observed with others, after a call that is.
# `=` takes a value.
HARMFUL = {
    "arp -an": "-d= -s= -f= -D",
    "busctl list": "-H= -M= --host= --machine= --address= --watch-bind=",
    "coredumpctl list": """
        -A= -o= -D= --output= --directory= --debugger= --debugger-arguments= --file= --root=
        --image=
    """,
    "df -h": "--sync",
    "dmesg -T": """
        -C -c -D -E -F= -n= -w -W --clear --read-clear --console-off --console-on
        --console-level= --file= --follow --follow-new
    """,
    "dmidecode -q": "-d= --dev-mem= --dump-bin= --from-dump=",
    "docker ps -a": "-H= -D -c= --host= --config= --context= --tls --tlscacert= --log-level=",
    "ethtool eth0": """
        -s -A -C -G -K -L -N -U -W -X -E -e -d -f -p -r -t -w -Q --reset --flash --test
        --identify
    """,
    "findmnt -n": "-F= -p -w= --tab-file= --poll --timeout=",
    "firewall-cmd --list-all": """
        --add-port= --add-service= --add-rich-rule= --remove-port= --remove-service= --reload
        --complete-reload --runtime-to-permanent --panic-on --panic-off --set-default-zone=
        --set-log-denied= --change-interface= --direct --new-zone= --new-zone-from-file=
        --delete-zone= --load-zone-defaults= --lockdown-on --add-lockdown-whitelist-command=
        --reset-to-defaults
    """,
    "hostname -f": "-F= -b --file= --boot",
    "hostnamectl status": "-H= -M= --host= --machine=",
    "ip a": "-b= -n= -batch= -netns= -force -rc= -rcvbuf=",
    "journalctl -u x": """
        -D= -M= -f --directory= --machine= --file= --root= --image= --follow --rotate --flush
        --sync --vacuum-size= --vacuum-time= --vacuum-files= --relinquish-var
        --smart-relinquish-var --cursor-file= --setup-keys --force --interval= --verify-key=
        --update-catalog
    """,
    "lastb -5": "-f= --file=",
    "loginctl list-sessions": "-H= -M= -s= --host= --machine= --signal= --kill-whom=",
    "lsblk -f": "--sysroot=",
    "lscpu -e": "-s= --sysroot=",
    "lshw -short": "-dump= -X",
    "lsmem -a": "-s= --sysroot=",
    "lspci -nn": "-A= -O= -G -H= -F= -i= -p= -M -q -Q",
    "lsscsi -l": "-y= --sysfsroot=",
    "lsusb -v": "-D=",
    "machinectl list": """
        -H= -M= -E= -s= --host= --machine= --signal= --kill-whom= --force --read-only --mkdir
        --verify= --setenv=
    """,
    "modinfo ext4": "-b= --basedir=",
    "mount -l": """
        -a -B -F -f -i -L= -M -m -N= -n -o= -O= -R -r -T= -U= -w --all --bind --fake --fork
        --move --rbind --mkdir --namespace= --options= --read-only --rw --target= --source=
        --make-private --fstab=
    """,
    "netstat -tln": "-c --continuous",
    "nmcli con show": "-s -a -w= --show-secrets --ask --wait= --rescan=",
    "numactl -H": "-C= -N= -m= --physcpubind= --membind= --shm= --file= --touch",
    "pgrep -a x": "-F= -L -e --pidfile= --logpidfile --echo --signal=",
    "pidstat -u": "-e= -d -v",
    "route -n": "-6x -h",
    "sar -u": "-o= --sadc",
    "sensors -u": "-s -c= --set --config-file=",
    "ss -t": "-K -D= -E -F= -N= --kill --diag= --events --filter= --net=",
    "swapon --show": "-a -d -e -f -o= -p= -L= -U= --all --discard --fixpgsz --options= --priority=",
    "sysctl -a": "-w -p= -f= --write --load= --system",
    "systemctl status x": """
        -f -H= -i -M= -s= --force --host= --image= --job-mode= --kill-whom= --machine= --now
        --root= --runtime --signal= --global --check-inhibitors= --firmware-setup
        --reboot-argument= --what= --mkdir --no-block --marked --user
    """,
    "systemd-analyze blame": """
        -H= -M= --host= --machine= --root= --image= --security-policy= --man= --user
    """,
    "tc qdisc show": "-b= -batch= -cf= -conf= -c -n= -netns= -force -nm",
    "timedatectl show": "-H= -M= --host= --machine= --adjust-system-clock --monitor",
    "top -bn1": "-s -W",
    "udevadm info x": "-c -d= -w --cleanup-db --device-id-of-file= --wait-for-initialization",
    "vmstat 1 2": "-m --slabs",
}


EXACT = ("--cursor", "--verify")  # harmless options of their own


def flags(text: str) -> list[str]:
    """Letters of options without a value, which `text` may have."""
    letters = "ahlqruvx"
    return [each for each in letters if verdict(f"{text} -{each}").decision is Decision.OBSERVE]


def spellings(text: str, option: str) -> list[str]:
    """`text` with an option, in every way that it can be written."""
    name, equals, _ = option.partition("=")
    program, *words = text.split(" ")
    given = [name]
    if name.startswith("--"):
        given += [f"{name}=x"] if equals else []
        given += [name[:end] for end in range(5, len(name)) if name[:end] not in EXACT]
    elif len(name) == 2:
        given += [f"-{letter}{name[1]}" for letter in flags(text)]
        given += [f"{name}{name[1]}", f"{name}x"]
    placed = []
    for each in given:
        value = ["x"] if equals and "=" not in each else []
        placed += [[each, *value, *words], [*words, each, *value]]
    return [" ".join([program, *each]) for each in placed]


@pytest.mark.parametrize("text", HARMFUL)
def test_no_harmful_option_is_observed_however_it_is_written(text: str) -> None:
    assert verdict(text).decision is Decision.OBSERVE
    for option in HARMFUL[text].split():
        for call_ in spellings(text, option):
            assert verdict(call_).decision is not Decision.OBSERVE, call_


SPELLINGS = {"r": ["-r", "-R", "--recursive", "--recurs"], "f": ["-f", "--force", "--for"]}
PATHS = ["/etc", "/etc/", "//etc", "/etc/.", "/usr/../etc", "../etc", "../root/../etc"]


@given(
    st.sampled_from(SPELLINGS["r"]),
    st.sampled_from(SPELLINGS["f"]),
    st.sampled_from(PATHS),
    st.lists(st.sampled_from(["-v", "--verbose", "--", "-i", "x", "/tmp/a/b"]), max_size=4),
    st.randoms(use_true_random=False),
)
def test_any_order_and_spelling(recursive, force, path, others, random) -> None:  # type: ignore[no-untyped-def]
    words = [recursive, force, path, *others]
    random.shuffle(words)
    found = decide(
        ProgramCall("/bin/rm", "/usr/bin/rm", ("rm", *words), "/root"), profile(deny=("rm -rf /*",))
    )
    assert found.decision is Decision.DENY


@given(st.permutations("rfvI"), st.integers(1, 3))
def test_any_combination_of_short_options(letters: list[str], cut: int) -> None:
    words = ["-" + "".join(letters[:cut]), "-" + "".join(letters[cut:]), "/etc"]
    for order in itertools.permutations(words):
        found = decide(
            ProgramCall("/bin/rm", "/bin/rm", ("rm", *order)), profile(deny=("rm -rf /etc",))
        )
        assert found.decision is Decision.DENY


@pytest.mark.P10
@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.text(max_size=6))
def test_any_call_has_a_verdict(argv: list[str], cwd: str) -> None:
    under = profile(deny=("rm -rf /*", "x --long=*"), approve=("ls *",))
    for path in ("/usr/bin/" + argv[0].replace("/", ""), "/usr/bin/sudo", "/usr/bin/systemctl"):
        found = decide(ProgramCall(path, path, tuple(argv), "/" + cwd), under)
        assert found.rule and found.reason
        assert (found.observation is not None) == (found.decision is Decision.OBSERVE)
        assert (found.recording is not None) == (found.decision is Decision.REVIEW)


@pytest.mark.P10
def test_long_arguments_cost_little() -> None:
    under = profile(deny=("rm -rf /*", "git push --force"))
    for argv in (
        ("rm", "-" + "x" * 200_000),
        ("sudo", *["rm"] * 3_000),
        ("sh", "-c", "curl " * 20_000),
        ("bash", "-c", ":(){" * 20_000),
    ):
        assert decide(ProgramCall(f"/bin/{argv[0]}", f"/bin/{argv[0]}", argv), under).rule


@pytest.mark.P10
@pytest.mark.parametrize("text", ["", "  ", "''", "rm 'x", "bin/rm x", "a\0b"])
def test_a_wrong_pattern_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"pattern of a command|by its name"):
        command_pattern(text)
