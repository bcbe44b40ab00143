#!/bin/sh
# Makes room on a full disk: clean.sh DIRECTORY (with cache/, log/ and logrotate.conf in it)
#
#     shannotctl submit examples/disk-cleanup/clean.sh /srv/app
#
# df looks at the host at once; what du counts is what the deletions left in the sandbox. The
# plan has the deletions and what logrotate did, as changes of files.
set -eu
cd "$1"

df -h .
du -sk cache log
find cache -type f -mtime +7 -delete
find log -name '*.gz' -mtime +30 -delete
if command -v logrotate >/dev/null; then
    logrotate --state log/.rotated logrotate.conf
fi
du -sk cache log
