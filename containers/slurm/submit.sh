#!/bin/bash
# Run a study on a SLURM cluster: one array task per subject, then the group level.
#
#   containers/slurm/submit.sh [options] BIDS_DIR OUTPUT_DIR [-- options of qsmals]
set -euo pipefail
SYSTEM=slurm

# the largest index of a task is one below MaxArraySize
largest_array() {
    local size
    size=$(scontrol show config 2>/dev/null | sed -n 's/^MaxArraySize *= *\([0-9]*\).*/\1/p') || true
    echo $((${size:-1001} - 1))
}

submit_tasks() {
    local job
    # a task gets two minutes before its time is over, and is queued again when its node fails
    job=$(sbatch --parsable --job-name=qsmals --array="1-$1%$AT_ONCE" --nodes=1 --ntasks=1 --cpus-per-task="$CPUS" \
        --mem="$MEM" --time="$LIMIT" --signal=B:TERM@120 --requeue --open-mode=append \
        --output="$RUN/task-%a.log" --export=ALL "${ARGS[@]}" "$RUN/task.sh") || return
    echo "${job%%;*}"
}

submit_group() {
    local job after
    after=$(IFS=: && echo "$*")
    job=$(sbatch --parsable --job-name=qsmals-group ${1:+--dependency="afterany:$after"} --nodes=1 --ntasks=1 \
        --cpus-per-task="$GROUP_CPUS" --mem="$GROUP_MEM" --time="$GROUP_LIMIT" \
        --output="$RUN/group.log" --export=ALL "${ARGS[@]}" "$RUN/group.sh") || return
    echo "${job%%;*}"
}

. "$(dirname "$0")/../cluster/submit.sh"
