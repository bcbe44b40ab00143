"""What a file change means is said in words, whatever tool made it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shannotd.policy.globs import translate
from shannotd.policy.held import Holder
from shannotd.policy.risk import assess_plan, counts, plan_risk
from shannotd.policy.rules import PathTable, Rule, risk_rules
from shannotd.wire.decision import Risk
from shannotd.wire.plan import Identity, Plan, StepCounts, Target
from shannotd.wire.step import FileState, Step, TreeSummary
from shannotd.wire.text import has_hidden

pytestmark = pytest.mark.P7

ABSENT = FileState("absent")
FILE = FileState("file", mode=0o644, uid=0, gid=0, size=3, sha256="a" * 64)
OTHER = replace(FILE, sha256="b" * 64)
DIRECTORY = FileState("directory", mode=0o755, uid=0, gid=0)


def plan_of(*steps: Step) -> Plan:
    identity = Identity("root", 0, 0, (), 0o022)
    return Plan(1, "s", Target("local", "h"), identity, "v", "rollback", tuple(steps))


def assess(step: Step) -> tuple[Risk, str]:
    ((risk, reason),) = assess_plan(plan_of(step))
    assert reason
    assert not has_hidden(reason)
    return risk, reason


def modify(path: str, before: FileState = FILE, after: FileState = OTHER) -> Step:
    return Step("file", change="modify", path=path, before=before, after=after)


def create(path: str, after: FileState = FILE) -> Step:
    return Step("file", change="create", path=path, before=ABSENT, after=after)


def delete(path: str, before: FileState = FILE) -> Step:
    return Step("file", change="delete", path=path, before=before, after=ABSENT)


def rename(old_path: str, path: str, kind: FileState = FILE) -> Step:
    return Step("file", change="rename", path=path, old_path=old_path, before=ABSENT, after=kind)


def metadata(path: str, before: FileState, after: FileState) -> Step:
    return Step("file", change="metadata", path=path, before=before, after=after)


def link(path: str, target: str) -> Step:
    return create(path, FileState("symlink", mode=0o777, uid=0, gid=0, target=target))


DANGEROUS = {
    "/etc/passwd": "account database",
    "/etc/shadow": "account database",
    "/etc/group": "account database",
    "/etc/gshadow-": "account database",
    "/etc/subuid": "account database",
    "/etc/login.defs": "account database",
    "/etc/nsswitch.conf": "account database",
    "/etc/securetty": "account database",
    "/etc/pam.d/sshd": "PAM",
    "/etc/security/limits.conf": "PAM",
    "/usr/lib/x86_64-linux-gnu/security/pam_unix.so": "PAM",
    "/root/.ssh/authorized_keys": "without a password",
    "/home/bob/.ssh/authorized_keys": "without a password",
    "/srv/git/.ssh/authorized_keys2": "without a password",
    "/etc/ssh/sshd_config": "SSH",
    "/etc/ssh/sshd_config.d/50-x.conf": "SSH",
    "/home/bob/.ssh/config": "SSH",
    "/etc/sudoers": "root",
    "/etc/sudoers.d/bob": "root",
    "/etc/doas.conf": "root",
    "/etc/polkit-1/rules.d/10-x.rules": "root",
    "/usr/share/polkit-1/actions/x.policy": "root",
    "/etc/crontab": "set times",
    "/etc/cron.d/x": "set times",
    "/etc/cron.daily/x": "set times",
    "/var/spool/cron/crontabs/bob": "set times",
    "/var/spool/at/x": "set times",
    "/etc/anacrontab": "set times",
    "/etc/systemd/system/x.service": "started by itself",
    "/etc/systemd/system/ssh.service.d/override.conf": "started by itself",
    "/usr/lib/systemd/system/x.timer": "started by itself",
    "/usr/lib/systemd/system-generators/x": "started by itself",
    "/lib/systemd/system/x.service": "started by itself",
    "/home/bob/.config/systemd/user/x.service": "started by itself",
    "/home/bob/.config/systemd/user/default.target.wants/x.service": "started by itself",
    "/etc/tmpfiles.d/x.conf": "started by itself",
    "/etc/ld.so.preload": "every program",
    "/etc/ld.so.conf": "every program",
    "/etc/ld.so.conf.d/x.conf": "every program",
    "/lib64/ld-linux-x86-64.so.2": "every program",
    "/boot/grub/grub.cfg": "boot file",
    "/boot/vmlinuz-6.1": "boot file",
    "/efi/EFI/x": "boot file",
    "/etc/default/grub": "boot file",
    "/etc/grub.d/40_custom": "boot file",
    "/etc/fstab": "boot file",
    "/etc/initramfs-tools/hooks/x": "boot file",
    "/lib/modules/6.1/kernel/x.ko": "kernel",
    "/etc/modprobe.d/x.conf": "kernel",
    "/etc/modules-load.d/x.conf": "kernel",
    "/etc/sysctl.conf": "kernel",
    "/etc/sysctl.d/99-x.conf": "kernel",
    "/etc/profile": "every login",
    "/etc/profile.d/x.sh": "every login",
    "/etc/bash.bashrc": "every login",
    "/etc/environment": "every login",
    "/etc/skel/.bashrc": "every login",
    "/home/bob/.bashrc": "every login of this account",
    "/root/.profile": "every login of this account",
    "/home/bob/.zshrc": "every login of this account",
    "/home/bob/.config/fish/config.fish": "every login of this account",
    "/srv/home/bob/.bash_aliases": "every login of this account",
    "/etc/apt/sources.list": "package manager",
    "/etc/apt/sources.list.d/x.list": "package manager",
    "/etc/apt/apt.conf.d/99hook": "package manager",
    "/etc/apt/trusted.gpg.d/x.gpg": "package manager",
    "/etc/dpkg/dpkg.cfg.d/x": "package manager",
    "/usr/share/keyrings/x.gpg": "package manager",
    "/etc/udev/rules.d/99-x.rules": "udev",
    "/etc/init.d/x": "start script",
    "/etc/rc.local": "start script",
    "/etc/network/if-up.d/x": "start script",
    "/etc/update-motd.d/99-x": "start script",
    "/usr/local/share/ca-certificates/x.crt": "believes",
    "/etc/ssl/certs/ca-certificates.crt": "believes",
    "/usr/local/bin/ls": "types its name",
    "/home/bob/.local/bin/ls": "types its name",
    "/usr/lib/python3/dist-packages/x.pth": "every Python program",
    "/srv/venv/lib/python3.11/site-packages/sitecustomize.py": "every Python program",
    "/home/bob/.config/autostart/x.desktop": "desktop",
    "/etc/xdg/autostart/x.desktop": "desktop",
    "/srv/app/.git/hooks/post-commit": "run by git",
    "/srv/app/.git/config": "run by git",
    "/usr/share/dbus-1/system-services/x.service": "D-Bus",
    "/etc/dbus-1/system.d/x.conf": "D-Bus",
    "/etc/shannot/config.toml": "shannot",
    "/etc/apparmor.d/usr.sbin.x": "confined",
    "/etc/docker/daemon.json": "container",
}


@pytest.mark.parametrize("path", DANGEROUS)
def test_sensitive_paths_are_danger_whatever_happens_to_them(path: str) -> None:
    symlink = FileState("symlink", mode=0o777, target="/tmp/x")
    for step in (
        modify(path),
        create(path),
        delete(path),
        create(path, symlink),
        rename("/srv/x", path),
        rename(path, "/srv/x"),
        metadata(path, FILE, replace(FILE, mode=0o600)),
        replace(modify(path), change="append"),
    ):
        risk, reason = assess(step)
        assert risk is Risk.DANGER, (step.change, reason)
        assert DANGEROUS[path] in reason


CAUTION = {
    "/etc/hosts": "address",
    "/etc/resolv.conf": "address",
    "/etc/nginx/nginx.conf": "network service",
    "/etc/nginx/sites-enabled/x": "network service",
    "/etc/postgresql/15/main/pg_hba.conf": "network service",
    "/var/log/syslog": "logs",
    "/etc/motd": "configuration of this machine",
    "/usr/share/doc/x": "operating system",
    "/opt/app/x": "operating system",
    "/var/lib/dpkg/status": "package",
    "/var/lib/app/data": "state",
}


@pytest.mark.parametrize("path", CAUTION)
def test_places_worth_a_look_are_caution(path: str) -> None:
    risk, reason = assess(modify(path))
    assert (risk, CAUTION[path] in reason) == (Risk.CAUTION, True), reason


@pytest.mark.parametrize(
    "step",
    [
        create("/srv/app/data.txt"),
        modify("/home/bob/notes.txt"),
        replace(modify("/srv/app/log.txt"), change="append"),
        create("/srv/app/new", DIRECTORY),
        rename("/srv/app/a", "/srv/app/b"),
        metadata("/srv/app/x", replace(FILE, mode=0o644), replace(FILE, mode=0o600)),
        link("/srv/app/current", "releases/7"),
        link("/srv/venv/bin/python3", "/usr/bin/python3"),
        replace(modify("/etc/passwd"), scratch=True),
        create("/home/bob/.config/app/settings"),
        create("/srv/passwd"),
        create("/srv/etc/passwd"),
        create("/srv/x.pth"),
    ],
    ids=lambda step: f"{step.change} {step.path}",
)
def test_harmless_changes_are_safe(step: Step) -> None:
    assert assess(step)[0] is Risk.SAFE


def test_a_new_program_is_caution_and_a_replaced_one_danger() -> None:
    assert assess(create("/usr/bin/newtool"))[0] is Risk.CAUTION
    assert assess(modify("/usr/bin/ls"))[0] is Risk.DANGER
    assert assess(delete("/usr/lib/x86_64-linux-gnu/libc.so.6"))[0] is Risk.DANGER


@pytest.mark.parametrize(
    ("before", "after", "risk", "words"),
    [
        (0o755, 0o4755, Risk.DANGER, "setuid"),
        (0o755, 0o2755, Risk.DANGER, "setgid"),
        (0o4755, 0o4755, Risk.SAFE, "mode"),
        (0o4755, 0o755, Risk.DANGER, "is setuid no longer"),
        (0o2755, 0o755, Risk.DANGER, "is setgid no longer"),
        (0o644, 0o646, Risk.CAUTION, "everybody may write"),
        (0o644, 0o664, Risk.CAUTION, "others may do more"),
        (0o600, 0o644, Risk.CAUTION, "others may do more: mode 0600 to 0644"),
    ],
)
def test_modes(before: int, after: int, risk: Risk, words: str) -> None:
    step = metadata("/srv/x", replace(FILE, mode=before), replace(FILE, mode=after))
    assert assess(step)[0] is risk
    assert words in assess(step)[1]


def test_special_bits_of_new_and_replaced_files() -> None:
    setuid = replace(FILE, mode=0o4755)
    assert assess(create("/srv/x", setuid))[0] is Risk.DANGER
    link_before = FileState("symlink", mode=0o4777, target="x")
    assert assess(modify("/srv/x", link_before, setuid))[0] is Risk.DANGER
    assert assess(create("/srv/d", replace(DIRECTORY, mode=0o2775)))[0] is Risk.CAUTION


def test_world_writable() -> None:
    assert assess(create("/etc/motd", replace(FILE, mode=0o666)))[0] is Risk.DANGER
    assert assess(create("/srv/d", replace(DIRECTORY, mode=0o777)))[0] is Risk.CAUTION
    assert assess(create("/srv/d", replace(DIRECTORY, mode=0o1777)))[0] is Risk.SAFE
    opened = metadata("/home/bob", DIRECTORY, replace(DIRECTORY, mode=0o777))
    assert assess(opened)[0] is Risk.DANGER
    opened = metadata("/home/bob/.ssh", DIRECTORY, replace(DIRECTORY, mode=0o775))
    assert assess(opened)[0] is Risk.DANGER
    given_away = metadata("/etc/ssh", DIRECTORY, replace(DIRECTORY, uid=1000))
    assert assess(given_away)[0] is Risk.DANGER


def test_capabilities() -> None:
    capable = replace(FILE, xattrs={"security.capability": "01"})
    assert assess(create("/srv/x", capable)) == (
        Risk.DANGER,
        "file capabilities: whoever starts it gets rights of root",
    )
    assert assess(metadata("/srv/x", FILE, capable))[0] is Risk.DANGER
    assert assess(metadata("/srv/x", capable, capable))[0] is Risk.SAFE


def test_owner() -> None:
    risk, reason = assess(metadata("/srv/x", FILE, replace(FILE, uid=1000, gid=1000)))
    assert (risk, reason) == (Risk.CAUTION, "changes owner from 0:0 to 1000:1000")


def test_hard_links_break() -> None:
    several = replace(FILE, links=3)
    for step, stays in (
        (modify("/srv/x", several), "the other names keep the old content"),
        (metadata("/srv/x", several, FILE), "the change is one of all of them"),
    ):
        words = f"the file has 3 names (hard links): {stays}"
        assert assess(step) == (Risk.DANGER, words)
    assert assess(delete("/srv/x", several))[0] is Risk.CAUTION
    assert assess(modify("/srv/x", replace(FILE, links=1)))[0] is Risk.SAFE
    second_name = replace(create("/srv/x"), link_to="/etc/shadow")
    assert assess(second_name)[0] is Risk.DANGER


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/srv/x", "/etc/shadow"),
        ("/srv/a/b", "../../etc/./passwd"),
        ("/srv/x", "/root/.ssh/authorized_keys"),
        ("/srv/x", "/etc"),
        ("/srv/x", "/"),
        ("/srv/x", ".."),
        ("/srv/x", "/home/bob/.ssh"),
        ("/srv/x", "/etc/sudoers.d"),
    ],
)
def test_links_to_sensitive_places(path: str, target: str) -> None:
    risk, reason = assess(link(path, target))
    assert (risk, "leads to" in reason) == (Risk.DANGER, True)


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/usr",
        "/home",
        "/home/bob",
        "/root",
        "/srv/data",
        "/var/lib/postgresql",
        "/etc/ssh",
        "/etc/systemd/system",
        "/home/bob/.ssh",
        "/home/bob/.config",
        "/srv/app/.git",
        "/srv/venv/lib/python3.11/site-packages",
    ],
)
def test_directories_that_hold_sensitive_paths(path: str) -> None:
    lost = replace(DIRECTORY, tree=TreeSummary(3, 100, "a" * 64))
    link_after = FileState("symlink", mode=0o777, target="/srv/y")
    for step in (
        delete(path, lost),
        rename(path, "/mnt/x/y", DIRECTORY),
        modify(path, lost, FILE),
        modify(path, lost, link_after),
    ):
        assert assess(step)[0] is Risk.DANGER, step.change


def test_taking_the_place_of_a_sensitive_directory() -> None:
    assert assess(link("/home/bob/.ssh", "/tmp/keys"))[0] is Risk.DANGER
    assert assess(rename("/srv/keys", "/home/bob/.ssh", DIRECTORY))[0] is Risk.DANGER


def test_ordinary_directories() -> None:
    small = replace(DIRECTORY, tree=TreeSummary(3, 100, "a" * 64))
    assert assess(delete("/srv/app/build", small))[0] is Risk.CAUTION
    assert assess(delete("/srv/app/build", DIRECTORY))[0] is Risk.CAUTION
    assert assess(rename("/srv/app/a", "/srv/app/b", DIRECTORY))[0] is Risk.SAFE


def test_large_trees_are_danger() -> None:
    many = replace(DIRECTORY, tree=TreeSummary(5000, 100, "a" * 64))
    risk, reason = assess(delete("/srv/app/build", many))
    assert (risk, "5000" in reason) == (Risk.DANGER, True)
    large = replace(DIRECTORY, tree=TreeSummary(3, 1 << 40, "a" * 64))
    assert assess(delete("/srv/app/build", large))[0] is Risk.DANGER


def test_mass_deletion_is_counted_over_the_plan() -> None:
    few = assess_plan(plan_of(*(delete(f"/srv/app/{n}") for n in range(9))))
    assert {risk for risk, _ in few} == {Risk.CAUTION}
    assert not any("one of" in reason for _, reason in few)
    steps = [delete(f"/srv/app/{n}") for n in range(100)]
    *many, safe, scratch = assess_plan(
        plan_of(*steps, create("/srv/app/x"), replace(delete("/tmp/x"), scratch=True))
    )
    assert {risk for risk, _ in many} == {Risk.DANGER}
    assert all("one of 100 deletions" in reason for _, reason in many)
    assert safe[0] is scratch[0] is Risk.SAFE


@pytest.mark.parametrize(
    ("what", "risk"),
    [
        ("connect", Risk.CAUTION),
        ("bind", Risk.CAUTION),
        ("fifo", Risk.CAUTION),
        ("something new", Risk.CAUTION),
        ("mount", Risk.DANGER),
        ("reboot", Risk.DANGER),
        ("ptrace", Risk.DANGER),
        ("device", Risk.DANGER),
    ],
)
def test_blocked_attempts(what: str, risk: Risk) -> None:
    step = Step("blocked", what=what, target="192.0.2.1:80", count=3)
    assert assess(step)[0] is risk


def test_a_socket_of_a_powerful_service_is_danger() -> None:
    step = Step("blocked", what="connect", target="unix:/run/docker.sock")
    assert assess(step)[0] is Risk.DANGER


def test_what_is_not_known_says_so() -> None:
    assert assess(Step("command", argv=("x",)))[0] is Risk.UNKNOWN
    assert assess(Step("of next year"))[0] is Risk.UNKNOWN
    assert assess(Step("file", change="of next year", path="/srv/x"))[0] is Risk.UNKNOWN
    assert assess(modify("/srv/x", FILE, replace(FILE, sha256=None)))[0] is Risk.UNKNOWN
    assert assess(create("/srv/x", FileState("fifo", mode=0o600)))[0] is Risk.CAUTION
    assert assess(create("/srv/x", FileState("block", mode=0o600)))[0] is Risk.DANGER


def test_all_reasons_of_the_highest_risk_are_given() -> None:
    _, reason = assess(create("/etc/sudoers.d/x", replace(FILE, mode=0o4666)))
    assert "act as root" in reason
    assert "setuid" in reason
    assert "everybody may write" in reason


def test_plan_risk_is_the_highest() -> None:
    assert plan_risk([]) is Risk.SAFE
    findings = [(Risk.SAFE, ""), (Risk.UNKNOWN, ""), (Risk.CAUTION, "")]
    assert plan_risk(findings) is Risk.UNKNOWN
    assert plan_risk([*findings, (Risk.DANGER, "")]) is Risk.DANGER


def test_counts() -> None:
    plan = plan_of(
        create("/a"),
        modify("/b"),
        replace(modify("/c"), change="append"),
        delete("/d"),
        rename("/e", "/f"),
        metadata("/g", FILE, FILE),
        replace(create("/tmp/x"), scratch=True),
        Step("command"),
        Step("blocked", what="connect"),
    )
    assert counts(plan) == StepCounts(
        create=1,
        modify=1,
        append=1,
        delete=1,
        metadata=1,
        rename=1,
        command=1,
        blocked=1,
        scratch=1,
    )


def test_every_rule_is_found_by_its_own_paths() -> None:
    """No rule lies wholly behind an earlier one."""
    table = risk_rules().paths
    found = set()
    for rule, pattern in table.entries:
        path = pattern.replace("**/", "/srv/", 1) if pattern.startswith("**/") else pattern
        found.add(table.find(path.replace("**", "x").replace("*", "x").replace("?", "x")))
        assert rule.role
        assert rule.effect
    assert {rule.role for rule, _ in table.entries} == {rule.role for rule in found if rule}


names = st.sampled_from(["a", "b", "ab", ".a", "etc"])
shapes = st.sampled_from(["a", "b", "*", "a*", "?", "etc", ".*"])
absolute = st.tuples(st.lists(shapes, min_size=1, max_size=4), st.booleans()).map(
    lambda drawn: "/" + "/".join([*drawn[0], *(["**"] if drawn[1] else [])])
)
anywhere = st.lists(shapes, min_size=1, max_size=3).map(lambda parts: "**/" + "/".join(parts))
paths = st.lists(names, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(absolute | anywhere, max_size=6), st.lists(paths, min_size=1, max_size=5))
def test_the_table_finds_the_first_pattern_that_matches(
    patterns: list[str], several: list[str]
) -> None:
    rules = [(Rule(Risk.DANGER, str(n), "", ()), each) for n, each in enumerate(patterns)]
    table = PathTable(rules)
    for path in several:
        first = next((r for r, each in rules if re.fullmatch(translate(each), path)), None)
        assert table.find(path) is first


steps = st.builds(
    Step,
    kind=st.sampled_from(["file", "command", "blocked", "?"]),
    change=st.none() | st.sampled_from(["create", "modify", "append", "delete", "rename", "?"]),
    path=st.none() | paths | st.text(),
    old_path=st.none() | paths | st.text(),
    link_to=st.none() | paths | st.text(),
    what=st.none() | st.text(),
    **{
        name: st.none()
        | st.builds(
            FileState,
            type=st.sampled_from(["absent", "file", "directory", "symlink", "fifo", "?"]),
            mode=st.none() | st.integers(0, 0o7777),
            uid=st.none() | st.integers(0, 3),
            gid=st.none() | st.integers(0, 3),
            target=st.none() | paths | st.text(),
            links=st.none() | st.integers(0, 5),
            tree=st.none() | st.builds(TreeSummary, st.integers(), st.integers(), st.text()),
        )
        for name in ("before", "after")
    },
)


@pytest.mark.P10
@given(st.lists(steps, max_size=4))
def test_any_plan_is_assessed(several: list[Step]) -> None:
    plan = plan_of(*several)
    findings = assess_plan(plan)
    assert len(findings) == len(several)
    assert all(reason and not has_hidden(reason) for _, reason in findings)
    assert plan_risk(findings).rank == max((risk.rank for risk, _ in findings), default=0)
    counts(plan)


def test_devices() -> None:
    device = FileState("block", mode=0o660, uid=0, gid=6, target="8:0")
    reason = "a device node: raw access to hardware"
    assert reason in assess(delete("/srv/sda", device))[1]
    for step in (metadata("/srv/sda", device, replace(device, mode=0o666)), delete("/x", device)):
        assert assess(step)[0] is Risk.DANGER


def test_who_holds_a_file_open_for_writing() -> None:
    writers = tuple(Holder(number, f"/bin/w{number}") for number in range(1, 6))
    lost = "what is written to the old file from then on is lost"
    for count, words in (
        (1, "process 1 (/bin/w1) has it"),
        (2, "process 1 (/bin/w1) and process 2 (/bin/w2) have it"),
        (4, "process 1 (/bin/w1), process 2 (/bin/w2), process 3 (/bin/w3) and 1 other have it"),
        (5, "process 1 (/bin/w1), process 2 (/bin/w2), process 3 (/bin/w3) and 2 others have it"),
    ):
        plan = plan_of(modify("/srv/x"), create("/srv/y"))
        first, second = assess_plan(plan, {0: writers[:count]})
        assert first == (Risk.DANGER, f"{words} open for writing: {lost}")
        assert second[0] is Risk.SAFE
    named = Holder(7, "/bin/\x1b[2J")
    ((_, reason),) = assess_plan(plan_of(modify("/srv/x")), {0: (named,)})
    assert "\x1b" not in reason
