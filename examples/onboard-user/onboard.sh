#!/bin/sh
# Gives somebody an account with a key to log in by: onboard.sh NAME "PUBLIC KEY"
#
#     shannotctl submit examples/onboard-user/onboard.sh ann "$(cat ann.pub)"
#
# Needs the identity of root. useradd runs in the sandbox: the plan shows each line that it adds to
# the account files, and the key, which are danger whatever tool wrote them.
set -eu
name=$1
key=$2

useradd --create-home --shell /bin/bash "$name"
home=$(getent passwd "$name" | cut -d: -f6)
mkdir -m 700 "$home/.ssh"
printf '%s\n' "$key" >"$home/.ssh/authorized_keys"
chmod 600 "$home/.ssh/authorized_keys"
chown -R "$name:$name" "$home/.ssh"
