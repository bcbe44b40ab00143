"""Repairs an nginx configuration after a look at its logs: fix.py DIRECTORY

    shannotctl submit examples/fix-nginx/fix.py DIRECTORY    (`make demo` has one with a server)

Customers cannot upload photos (status 413): the logs tell how large the bodies were. On
the way it turns off what a current server should not offer any more. nginx then checks what was
written, and takes it up: the check runs in the sandbox, at once; the reload is a command of the
plan, which runs when everything before it is in place.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

HEADERS = """\
add_header X-Content-Type-Options nosniff always;
add_header X-Frame-Options SAMEORIGIN always;
add_header Referrer-Policy strict-origin-when-cross-origin always;
"""


def largest_refused_body(logs: Path) -> int:
    """The size in bytes of the largest body that was refused, 0 where none was."""
    errors = (logs / "error.log").read_text(encoding="utf-8")
    return max(map(int, re.findall(r"too large body: (\d+) bytes", errors)), default=0)


def main() -> int:
    root = Path(sys.argv[1])
    refused = (root / "log/access.log").read_text(encoding="utf-8").count(" 413 ")
    largest = largest_refused_body(root / "log")
    megabytes = -(-largest // 2**20) * 2
    print(f"{refused} uploads refused, the largest of {largest} bytes: allowing {megabytes}m")

    main_file = root / "nginx.conf"
    text = main_file.read_text(encoding="utf-8")
    text = re.sub(r"client_max_body_size \w+;", f"client_max_body_size {megabytes}m;", text)
    text = text.replace("server_tokens on;", "server_tokens off;")
    text = text.replace("ssl_protocols TLSv1 TLSv1.1 TLSv1.2", "ssl_protocols TLSv1.2")
    main_file.write_text(text, encoding="utf-8")

    (root / "conf.d/security-headers.conf").write_text(HEADERS, encoding="utf-8")
    (root / "conf.d/old-shop.conf.dpkg-old").unlink()
    (root / "shop.htpasswd").chmod(0o640)

    if shutil.which("nginx") is None:
        print("nginx is not installed: nothing checked the configuration, nothing takes it up")
        return 0
    nginx = ["nginx", "-e", "log/error.log", "-p", str(root), "-c", "nginx.conf"]
    subprocess.run([*nginx, "-t"], check=True)
    subprocess.run([*nginx, "-s", "reload"], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
