#!/bin/bash
# Run a study on Grid Engine: one array task per subject, then the group level.
#
#   containers/sge/submit.sh [options] BIDS_DIR OUTPUT_DIR [-- options of qsmals]
#
# SGE_PE names the parallel environment (smp), SGE_MEM the resource that stands for memory (mem_free);
# Grid Engine counts memory by processor, which is seen to here.
set -euo pipefail
SYSTEM=sge

# name, output, processors, MiB, time
ask_for() {
    local words=(-terse -V -S /bin/bash -N "$1" -o "$2" -j y -wd "$RUN" -l "${SGE_MEM:-mem_free}=$(($4 / $3))M,h_rt=$5")
    [ "$3" -le 1 ] || words+=(-pe "${SGE_PE:-smp}" "$3")
    printf '%s\0' "${words[@]}"
}

largest_array() { echo 75000; }  # max_aj_tasks as Grid Engine comes

submit_tasks() {
    local job words
    mapfile -d '' -t words < <(ask_for qsmals "$RUN/task-\$TASK_ID.log" "$CPUS" "$MEM_MIB" "$LIMIT")
    # -notify: SIGUSR2 before the job is killed; -r: queued again when its node fails
    job=$(qsub "${words[@]}" -t "1-$1" -tc "$AT_ONCE" -notify -r y "${ARGS[@]}" "$RUN/task.sh") || return
    echo "${job%%.*}"
}

submit_group() {
    local words after
    after=$(IFS=, && echo "$*")
    mapfile -d '' -t words < <(ask_for qsmals-group "$RUN/group.log" "$GROUP_CPUS" "$GROUP_MIB" "$GROUP_LIMIT")
    qsub "${words[@]}" ${1:+-hold_jid "$after"} "${ARGS[@]}" "$RUN/group.sh"
}

. "$(dirname "$0")/../cluster/submit.sh"
