"""What becomes of the calls that administrators of a Debian server make every day.

Each line is a decision, with the risk where it is not the decision's own, and calls.
"""

from __future__ import annotations

import pytest

from shannotd.wire.decision import Decision, Risk
from tests.policy.test_policy_commands import texts
from tests.support.calls import verdict

RISKS = {
    "observe": (Decision.OBSERVE, Risk.SAFE),
    "reads": (Decision.REVIEW, Risk.SAFE),
    "contain": (Decision.CONTAIN, Risk.SAFE),
    "review": (Decision.REVIEW, Risk.CAUTION),
    "danger": (Decision.REVIEW, Risk.DANGER),
    "deny": (Decision.DENY, Risk.DANGER),
}

CALLS = {
    "processes": {
        "observe": """
            ps | ps aux | ps -ef | ps -eo pid,ppid,user,%cpu,%mem,cmd --sort=-%cpu
            ps -p 1 -o comm= | ps -C nginx -o pid= | ps -u www-data | ps faux | ps axjf | ps -eLf
            ps --ppid 1 -o pid,args | ps -fp1 | pgrep nginx | pgrep -fa 'java .*jar'
            pgrep -u root -x cron | pidof sshd | pstree -aps 1 | top -b -n 1 | top -bn1 -o %MEM
            top -bcn1 -w512 | uptime | uptime -s | free -h | free -m -s1 -c2 | vmstat 1 5
            vmstat -s | vmstat -d | iostat -xz 1 3 | mpstat -P ALL 1 1 | pidstat -u 1 1
            pidstat -r -p ALL | sar -q | sar -n DEV 1 1 | sar -f /var/log/sysstat/sa01 | prtstat 1
            w | who | who -a | last -n 20 | last -x reboot | lastb -n5 | users | ipcs -a
            lsipc -g
        """,
        "reads": """
            lsof | lsof -i :443 | lsof -nP -iTCP -sTCP:LISTEN | lsof +L1 | lsof -u bob | lsof -p 1
            lsof /srv | lsof +D /var/log | fuser -v /srv | fuser -n tcp 80 | fuser 80/tcp
            pmap -x 1 | pwdx 1 | lsns | lslocks | slabtop -o | iotop -boqn1 | needrestart -b
        """,
        "review": """
            top | top -b | htop | atop | iotop | killall nginx | pkill -HUP nginx
            renice -n 5 -p 1 | screen -dmS x make | tmux new -d make | ipcrm -a | slabtop
        """,
        "contain": """
            kill -HUP 1 | nice -n5 make | nohup make | timeout 5 make | xargs -n1 rm
            watch -n1 df
        """,
    },
    "disks": {
        "observe": """
            df | df -h | df -hT / | df -i /var | df -h --output=source,pcent,target
            df -x tmpfs -h | df -BG . | lsblk | lsblk -f | lsblk -o NAME,SIZE,TYPE,MOUNTPOINT -J
            lsblk -dno NAME,ROTA | lsblk /dev/sda | findmnt | findmnt -T . | findmnt -no SOURCE /
            findmnt --verify | mount | mount -l -t nfs4 | swapon | swapon --show | zramctl
            udevadm info /dev/sda | udevadm info -q property -n sda
        """,
        "contain": """
            du -sh /var/* | du -xh --max-depth=1 / | stat /etc | find / -xdev -size +100M
            cat /proc/mdstat | ncdu -o- / | dd if=/dev/zero of=/srv/x bs=1M count=1
            truncate -s0 /var/log/x | fallocate -l1M x
        """,
        "reads": """
            blkid | blkid -s UUID -o value /dev/sda1 | fdisk -l | fdisk -l /dev/sda
            sfdisk -d /dev/sda | sgdisk -p /dev/sda | parted -l | parted -s /dev/sda print
            smartctl -a /dev/sda | smartctl --scan | nvme list | nvme smart-log /dev/nvme0 | pvs
            vgs | lvs -a -o +devices | pvdisplay | lvdisplay | mdadm --detail /dev/md0
            mdadm -D --scan | zpool status -v | zfs list -t snapshot | dmsetup ls --tree
            btrfs filesystem usage / | btrfs subvolume list / | tune2fs -l /dev/sda1
            dumpe2fs -h /dev/sda1 | losetup -a | multipath -ll | repquota -a | xfs_info /srv
            blockdev --getsize64 /dev/sda
        """,
        "review": """
            mount /dev/sdb1 /mnt | mount -a | mount -o remount,ro / | umount /mnt | swapon -a
            swapoff -a | fstrim -av | losetup -f x.img | losetup -d /dev/loop0 | udevadm trigger
            chattr +i /etc/passwd
        """,
        "danger": """
            mkfs.ext4 /dev/sdb1 | mkswap /dev/sdb2 | fdisk /dev/sda | parted /dev/sda mklabel gpt
            wipefs -a /dev/sdb | dd if=x of=/dev/sda | shred /dev/sdb | pvcreate /dev/sdb
            lvextend -L+5G vg/lv | lvremove vg/lv | vgchange -ay | mdadm --create /dev/md0
            mdadm --stop /dev/md0 | zfs destroy tank/x | zpool create t sda | resize2fs /dev/sda1
            xfs_growfs /srv | fsck /dev/sda1 | tune2fs -L x /dev/sda1 | cryptsetup luksOpen x
            e2label /dev/sda1 x | sgdisk -d 1 /dev/sda | hdparm -y /dev/sda
        """,
    },
    "network": {
        "observe": """
            ss -tulpn | ss -tlnp | ss -s | ss -tan state established | ss -ltn 'sport = :80'
            ss -xlp | ip a | ip addr | ip -br a | ip -4 addr show scope global | ip a s eth0
            ip link | ip -s link show eth0 | ip r | ip route show default | ip route get 192.0.2.1
            ip -6 route | ip neigh | ip rule | ip netns | ip -j addr | bridge vlan show
            bridge fdb show | tc -s qdisc show dev eth0 | netstat -tulpn | netstat -rn
            netstat -i | netstat -s | route -n | arp -an | ifconfig | ifconfig eth0 | ifconfig -a
            ethtool eth0 | ethtool -i eth0 | ethtool -S eth0 | hostname | hostname -f
            hostname -I | nstat -az | nmcli device status
            nmcli -t -f NAME,DEVICE con show --active | firewall-cmd --list-all --zone=public
        """,
        "contain": """
            cat /etc/resolv.conf | getent hosts x | iptables-translate -A INPUT -j DROP
            openssl x509 -in x
        """,
        "reads": """
            iptables -L -n -v | iptables -S | iptables -t nat -L -n --line-numbers | iptables-save
            ip6tables -L | nft list ruleset | nft -a list table inet filter | ufw status verbose
            ipset list | conntrack -L | wg show | networkctl | networkctl status eth0
            resolvectl status | ping -c1 192.0.2.1 | dig x.example | traceroute x | nslookup x
            host x | whois x | mtr -rc1 x | ssh-keyscan x
        """,
        "review": """
            curl -s http://127.0.0.1/health | wget x | nc -z x 22 | ssh x uptime | scp a x:b
            rsync -a a x:b | ss -K dst 192.0.2.1 | hostname x | tcpdump -i eth0 | telnet x 25
            netstat -c | resolvectl flush-caches
        """,
        "danger": """
            ip addr add 192.0.2.1/24 dev eth0 | ip link set eth0 down | ip route del default
            ip route flush table 9 | ifconfig eth0 down | route add default gw x | arp -d x
            ethtool -s eth0 speed 100 | brctl addbr br0 | tc qdisc add dev eth0 root tbf
            iptables -A INPUT -j DROP | iptables -F | iptables-restore | nft -f x
            nft flush ruleset | ufw enable | ufw allow 22 | ipset create x hash:ip | netplan apply
            ifdown eth0 | nmcli con up x | firewall-cmd --reload | firewall-cmd --add-port=80/tcp
            conntrack -F | wg set wg0
        """,
    },
    "services": {
        "observe": """
            systemctl | systemctl status | systemctl status nginx -l --no-pager
            systemctl is-active nginx | systemctl is-enabled nginx | systemctl --failed
            systemctl list-units --type=service | systemctl list-unit-files --state=enabled
            systemctl list-timers --all | systemctl cat nginx
            systemctl show -p MainPID --value nginx | systemctl list-dependencies nginx
            systemctl get-default | service nginx status | loginctl | loginctl user-status bob
            timedatectl | hostnamectl | localectl | systemd-analyze | systemd-analyze blame
            systemd-analyze security nginx | systemd-cgtop -bn1 | systemd-detect-virt | runlevel
            busctl list | coredumpctl list | machinectl list
            journalctl -u nginx -n 50 --no-pager | journalctl -xe | journalctl -p err -b
            journalctl --since today | journalctl -k | journalctl -b -1
            journalctl _PID=1 -o json | journalctl --disk-usage -q | journalctl -t sshd -g fail -r
            dmesg | dmesg -T | dmesg --level=err,warn -T | dmesg -H
        """,
        "contain": """
            nginx -t | apachectl configtest | apache2ctl -t | sshd -t | visudo -c
            named-checkconf | haproxy -c -f x | postfix check | php-fpm8.2 -t
            systemd-analyze verify x.service | systemd-analyze calendar daily
            logrotate -d /etc/logrotate.conf | logrotate -f /etc/logrotate.conf
            tail -n100 /var/log/syslog | zgrep x /var/log/syslog.2.gz | a2ensite x
            systemd-tmpfiles --create | systemd-delta | systemd-escape x | rsyslogd -N1
            fail2ban-client -t | ausearch -m avc
        """,
        "reads": """
            systemd-cgls | chronyc tracking | chronyc sources -v | ntpq -pn | aa-status | mailq
            postqueue -p | fail2ban-client status sshd | sudo -l | auditctl -l
        """,
        "review": """
            systemctl start nginx | systemctl restart nginx | systemctl reload nginx
            systemctl daemon-reload | systemctl enable --now nginx | systemctl mask x
            systemctl edit x | systemctl kill nginx | service nginx restart | invoke-rc.d x start
            nginx | nginx -s reload | apachectl graceful | rndc reload | newaliases
            journalctl --vacuum-time=2d | journalctl --rotate | journalctl -f | journalctl -fu x
            dmesg -C | dmesg -w | timedatectl set-timezone UTC | hostnamectl set-hostname x
            loginctl kill-user x | fail2ban-client set sshd unbanip x | at now | logger x
            sysctl -w vm.swappiness=1 | sysctl -p | chronyc makestep | hwclock -w
            supervisorctl restart x | busctl call a b c d | dbus-send --system x
        """,
        "danger": """
            reboot | shutdown -r now | systemctl reboot | systemctl isolate rescue.target | init 6
            poweroff | modprobe x | rmmod x | update-grub | update-initramfs -u | sudo ls
            su - bob | systemd-run x | setenforce 0 | aa-complain x | apparmor_parser -r x
        """,
        "deny": """
            shannotctl approve x | sudo shannotctl approve x
        """,
    },
    "hardware and kernel": {
        "observe": """
            lscpu | lscpu -J | lsmem | lspci | lspci -nnk | lsusb -t | lsmod | modinfo ext4
            dmidecode -t memory | dmidecode -s system-serial-number | lshw -short
            lshw -c network -json | sensors | numactl -H | sysctl -a
            sysctl -n net.ipv4.ip_forward | sysctl vm.swappiness | getenforce | sestatus
        """,
        "contain": """
            uname -a | nproc | arch | getconf _NPROCESSORS_ONLN | cat /proc/cpuinfo | lsattr x
            getcap x
        """,
        "reads": """
            nvidia-smi | ipmitool sensor list
        """,
        "review": """
            sensors -s | cpupower frequency-set -g performance
        """,
    },
    "files and packages": {
        "contain": """
            cp -a a b | mv a b | rm -rf /srv/x | mkdir -p a | chmod 600 x
            chown -R www-data: /srv | ln -s a b | sed -i s/a/b/ x | awk 1 | grep -r x /etc | tee x
            tar czf x.tgz /etc | unzip x | vi x | git status | git -C /srv commit -am x
            crontab -l | useradd bob | usermod -aG sudo bob | passwd -l bob | chage -l bob
            groupadd x | visudo -cf x | dpkg -l | dpkg -i x.deb | dpkg -S /bin/ls | apt list
            apt-cache policy x | apt-get -s upgrade | apt-get remove x | apt-get autoremove
            apt-mark hold x | update-alternatives --config vi | debconf-show x | make install
            python3 -m venv x | pip list | apt-file search x | locale-gen | update-ca-certificates
            openssl req -new | ssh-keygen -f x | find /srv -delete | setfacl -m u:bob:r x
            setcap cap_net_raw+ep x | ldconfig | py3compile -p x
        """,
        "review": """
            apt-get update | apt-get install -y nginx | apt upgrade | apt full-upgrade -y
            aptitude update | unattended-upgrade | apt-file update | pip install x | npm ci
            gem install x | snap install x | git pull | git push | git clone x
            restorecon -R /srv
        """,
        "deny": """
            rm -rf / | rm -rf /etc | rm -rf --no-preserve-root / | chmod -R 777 / | chown -R bob /
            sudo rm -rf /usr
        """,
    },
    "containers and databases": {
        "observe": """
            docker ps | docker ps -aq --filter status=exited | docker images
            docker logs --tail 50 web | docker inspect -f {{.State.Status}} web
            docker stats --no-stream | docker top web | docker info | docker system df
            docker network ls | docker volume ls | docker container ls -a | docker port web
        """,
        "review": """
            docker run x | docker exec web ls | docker restart web | docker rm -f web
            docker pull x | docker compose up -d | docker logs -f web | docker stats
            docker system prune | docker -H x ps | podman ps | kubectl get pods | helm list
            psql -c 'select 1' | mysql -e x | pg_dump x | mysqldump x | redis-cli info
            virsh list
        """,
        "contain": """
            sqlite3 x.db .dump | redis-check-aof x | jq . x
        """,
    },
}

ROWS = [
    pytest.param(text, kind, id=f"{kind}: {text}")
    for kinds in CALLS.values()
    for kind, table in kinds.items()
    for text in texts(table)
]


@pytest.mark.parametrize(("text", "kind"), ROWS)
def test_an_administrators_call(text: str, kind: str) -> None:
    found = verdict(text)
    assert (found.decision, found.risk) == RISKS[kind]
    assert found.reason and found.rule != "unknown"


def test_there_are_enough_calls_and_none_twice() -> None:
    calls = [str(row.values[0]) for row in ROWS]
    assert len(calls) > 400
    assert len(set(calls)) == len(calls)
