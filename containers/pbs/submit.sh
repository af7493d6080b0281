#!/bin/bash
# Run a study on PBS Professional, OpenPBS or Torque: one array task per subject, then the group level.
#
#   containers/pbs/submit.sh [options] BIDS_DIR OUTPUT_DIR [-- options of qsmals]
#
# The two dialects differ; which it is is seen from "qsub --version", or PBS_DIALECT=pbspro or torque says it.
set -euo pipefail
SYSTEM=pbs
if [ -z "${PBS_DIALECT:-}" ]; then
    case $(qsub --version 2>&1) in *pbs_version*) PBS_DIALECT=pbspro ;; *) PBS_DIALECT=torque ;; esac
fi

# name, output, processors, MiB, time
ask_for() {
    local words=(-V -S /bin/bash -N "$1" -o "$2" -j oe -l "walltime=$5")
    if [ "$PBS_DIALECT" = pbspro ]; then
        words+=(-l "select=1:ncpus=$3:mem=${4}mb")
    else
        words+=(-l "nodes=1:ppn=$3" -l "mem=${4}mb")
    fi
    printf '%s\0' "${words[@]}"
}

largest_array() { echo 10000; }  # max_array_size as PBS Professional comes; Torque's own is above it

submit_tasks() {
    local array words
    if [ "$PBS_DIALECT" = pbspro ]; then
        array=(-J "1-$1%$AT_ONCE") && mapfile -d '' -t words < <(ask_for qsmals "$RUN/task-^array_index^.log" "$CPUS" "$MEM_MIB" "$LIMIT")
    else  # the log of a task gets its number at the end of its name
        array=(-t "1-$1%$AT_ONCE") && mapfile -d '' -t words < <(ask_for qsmals "$RUN/task.log" "$CPUS" "$MEM_MIB" "$LIMIT")
    fi
    if [ "$1" = 1 ]; then  # PBS makes no array of one
        array=() && mapfile -d '' -t words < <(ask_for qsmals "$RUN/task-1.log" "$CPUS" "$MEM_MIB" "$LIMIT")
    fi
    qsub "${words[@]}" "${array[@]}" -r y "${ARGS[@]}" "$RUN/task.sh"
}

submit_group() {
    local words job jobs='' arrays='' after
    for job in "$@"; do
        case $PBS_DIALECT$job in torque*\[*) arrays+=:$job ;; *) jobs+=:$job ;; esac
    done
    after=${jobs:+,afterany$jobs}${arrays:+,afteranyarray$arrays}
    mapfile -d '' -t words < <(ask_for qsmals-group "$RUN/group.log" "$GROUP_CPUS" "$GROUP_MIB" "$GROUP_LIMIT")
    qsub "${words[@]}" ${after:+-W "depend=${after#,}"} "${ARGS[@]}" "$RUN/group.sh"
}

. "$(dirname "$0")/../cluster/submit.sh"
