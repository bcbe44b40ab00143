#!/bin/sh
# Upgrades one package: upgrade.sh PACKAGE
#
#     shannotctl submit examples/apt-upgrade/upgrade.sh tzdata
#
# What the upgrade would bring is found out in the sandbox. The upgrade itself needs the network: so
# it is a command of the plan, which runs on the host after the approval.
set -eu
package=$1

dpkg-query --show --showformat='installed: ${Package} ${Version}\n' "$package"
upgrade=$(apt-get install --simulate --only-upgrade -o Dir::Log::Planner=/dev/null "$package" |
    sed -n 's/^Inst /would be installed: /p')
if [ -z "$upgrade" ]; then
    echo "there is nothing newer"
    exit 0
fi
echo "$upgrade"
DEBIAN_FRONTEND=noninteractive apt-get install --yes --only-upgrade "$package"
