"""What is proved in a container with systemd, its system bus, logind and polkit: run there as root.

The files below packaging/ are where a package would put them.
"""

from __future__ import annotations

import grp
import pwd
import subprocess
import sys
from pathlib import Path

import pexpect

PASSWORD = "the administrator's"
WORK = Path("/srv/work")
CTL = "env PYTHONPATH=/opt/shannot /usr/bin/python3 -m shannotctl"
CALL = (
    "busctl call org.shannot.Shannot1 /org/shannot/Shannot1 org.shannot.Shannot1.Manager"
    " ListSessions asu 0 10"
)


def run(command: str, *, account: str | None = None) -> subprocess.CompletedProcess[str]:
    """A command, as it is or in a session of an account's, without a terminal."""
    words = ["sh", "-c", command] if account is None else ["su", "-l", account, "-c", command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100
    )
    print(
        f"{account or 'root'}: {command}: {done.returncode}", done.stdout, done.stderr, flush=True
    )
    return done


def prepare() -> None:
    """The accounts, and somewhere to work."""
    for account in ("admin", "stranger"):
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", account], check=True)
    subprocess.run(["chpasswd"], input=f"admin:{PASSWORD}\n", text=True, check=True)
    subprocess.run(["usermod", "--append", "--groups", "shannot-review", "admin"], check=True)
    WORK.mkdir()
    shannot = pwd.getpwnam("shannot")
    subprocess.run(["chown", f"{shannot.pw_uid}:{shannot.pw_gid}", WORK], check=True)
    assert "admin" in grp.getgrnam("shannot-review").gr_mem


def test_a_call_starts_the_service() -> None:
    """The activation file and the bus's policy, as they are shipped."""
    assert run("systemctl is-active shannotd").stdout == "inactive\n"
    assert run(CALL, account="admin").returncode == 0
    assert run("systemctl is-active shannotd").stdout == "active\n"
    refused = run(CALL, account="stranger")
    assert refused.returncode != 0 and "may not use this daemon" in refused.stderr


def test_an_administrator_approves_his_own_with_his_password() -> None:
    """With the actions as they are shipped, asked for by the service's own account."""
    file = WORK / "file"
    made = run(f"{CTL} submit --sh 'echo one > {file}'", account="admin")
    assert made.returncode == 3, "it waits"
    identifier = run(f"{CTL} list | cut -c1-8", account="admin").stdout.split()[-1]
    shown = run(f"{CTL} show --json {identifier}", account="admin").stdout
    digest = shown.split('"digest": "')[1][:64]
    alone = run(f"{CTL} approve {identifier} --yes --digest {digest}", account="admin")
    assert alone.returncode == 6 and "authentication agent" in alone.stderr
    assert not file.exists()
    # A session of logind's with this terminal as its own (`-c` would take the terminal away).
    words = [
        "-l",
        "admin",
        f"--session-command=loginctl session-status; {CTL} approve {identifier}",
    ]
    terminal = pexpect.spawn("su", words, timeout=60)
    terminal.logfile_read = sys.stdout.buffer
    terminal.expect(rb"\[yes/no\] ")
    terminal.sendline("yes")
    terminal.expect(b"Prove that it is you, and no program of yours, who approves plan [0-9a-f]{8}")
    terminal.expect(b"Password: ")
    assert not file.exists()
    terminal.sendline(PASSWORD)
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert file.read_text() == "one\n"


def test_the_unit_of_the_notifier_is_valid() -> None:
    """As systemd reads it."""
    unit = "/usr/lib/systemd/user/shannot-notify.service"
    checked = run(f"XDG_RUNTIME_DIR=/run systemd-analyze verify --man=no --user {unit}")
    assert checked.returncode == 0 and "shannot-notify" not in checked.stderr


def main() -> None:
    """All of them."""
    prepare()
    for test in (
        test_a_call_starts_the_service,
        test_an_administrator_approves_his_own_with_his_password,
        test_the_unit_of_the_notifier_is_valid,
    ):
        print(f"== {test.__name__}", flush=True)
        test()
    print("test-container: passed", flush=True)


if __name__ == "__main__":
    main()
