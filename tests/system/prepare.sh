#!/bin/bash
# Install what the system tests start, from Debian's packages; where that cannot be, say so: they are skipped then.
set -uo pipefail
PACKAGES=()
want() { command -v "$1" >/dev/null || PACKAGES+=("$2"); }
want slurmctld slurmctld
want slurmd slurmd
want sbatch slurm-client
want munged munge
want podman podman
want buildah buildah
[ ${#PACKAGES[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed (needs root and apt): ${PACKAGES[*]}; tests that need them are skipped"
    exit 0
fi
# the packages must not start daemons of their own
POLICY=/usr/sbin/policy-rc.d
if [ ! -e $POLICY ]; then
    printf '#!/bin/sh\nexit 101\n' >$POLICY && chmod 755 $POLICY
    trap 'rm -f $POLICY' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}"; } >/dev/null; then
    echo "could not be installed: ${PACKAGES[*]}; tests that need them are skipped"
fi
