#!/bin/bash
# Run a study on IBM Spectrum LSF: one array element per subject, then the group level.
#
#   containers/lsf/submit.sh [options] BIDS_DIR OUTPUT_DIR [-- options of qsmals]
set -euo pipefail
SYSTEM=lsf

# hours:minutes, as LSF has it
hours_minutes() { local h m s; IFS=: read -r h m s <<<"$1"; echo "$h:${m:-00}"; }
number() { sed -n 's/^Job <\([0-9]*\)>.*/\1/p'; }

largest_array() { echo 1000; }  # MAX_JOB_ARRAY_SIZE as LSF comes

submit_tasks() {
    # -r: queued again when its node fails; -wa, -wt: SIGTERM two minutes before its time is over
    bsub -J "qsmals[1-$1]%$AT_ONCE" -o "$RUN/task-%I.log" -n "$CPUS" -R "span[hosts=1]" -R "rusage[mem=${MEM_MIB}MB]" \
        -W "$(hours_minutes "$LIMIT")" -r -wa TERM -wt 2 -cwd "$RUN" "${ARGS[@]}" bash "$RUN/task.sh" | number
}

submit_group() {
    local after
    after=$(printf ' && ended(%s)' "$@")
    bsub -J qsmals-group ${1:+-w "${after# && }"} -o "$RUN/group.log" -n "$GROUP_CPUS" -R "span[hosts=1]" \
        -R "rusage[mem=${GROUP_MIB}MB]" -W "$(hours_minutes "$GROUP_LIMIT")" -cwd "$RUN" \
        "${ARGS[@]}" bash "$RUN/group.sh" | number
}

. "$(dirname "$0")/../cluster/submit.sh"
