#!/bin/sh
# Upgrades one package: upgrade.sh PACKAGE
#
# What is installed is asked in the sandbox; the upgrade needs the network, so it is a command of
# the plan, which runs on the host after the approval.
set -eu
package=$1

dpkg-query --show --showformat='installed: ${Package} ${Version}\n' "$package"
apt-cache policy "$package" | sed -n 's/^  Candidate: /candidate: /p'
DEBIAN_FRONTEND=noninteractive apt-get install --yes --only-upgrade "$package"
