#!/bin/bash
# Install what the system tests start, from the packages of Debian or of sources that were added; what cannot be had is
# said: the tests that need it are skipped.
set -uo pipefail
PACKAGES=()
want() { command -v "$1" >/dev/null || PACKAGES+=("$2"); }
want slurmctld slurmctld
want slurmd slurmd
want sbatch slurm-client
want munged munge
want podman podman
want buildah buildah
has_apptainer() { command -v "${QSMALS_APPTAINER:-apptainer}" >/dev/null || command -v singularity >/dev/null; }
if [ ${#PACKAGES[@]} = 0 ] && has_apptainer; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed (needs root and apt): ${PACKAGES[*]} $(has_apptainer || echo apptainer); tests that need them are skipped"
    exit 0
fi
# the packages must not start daemons of their own
POLICY=/usr/sbin/policy-rc.d
if [ ! -e $POLICY ]; then
    printf '#!/bin/sh\nexit 101\n' >$POLICY && chmod 755 $POLICY
    trap 'rm -f $POLICY' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
if ! { apt-get update -qq >/dev/null && { [ ${#PACKAGES[@]} = 0 ] || install "${PACKAGES[@]}"; }; }; then
    echo "could not be installed: ${PACKAGES[*]}; tests that need them are skipped"
fi
if ! has_apptainer && ! install apptainer 2>/dev/null && ! install singularity-container 2>/dev/null; then
    echo "NO APPTAINER: no source of apt has it (Debian 12 does not), and ITS TESTS ARE SKIPPED; install the .deb of its" \
        "project, or name a command in QSMALS_APPTAINER"
fi
