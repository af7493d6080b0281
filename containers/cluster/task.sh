# One subject of the array that submit.sh makes; sourced by $QSMALS_RUN/task.sh, which sets QSMALS_RUN.
# shellcheck shell=bash
set -euo pipefail
# shellcheck source=/dev/null
. "$QSMALS_RUN/settings"
# shellcheck source=containers/cluster/run.sh
. "$QSMALS_CLUSTER/run.sh"

# the names of SLURM, Grid Engine, PBS Professional, Torque and LSF; PBS makes no array of one
INDEX=${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-${PBS_ARRAYID:-${LSB_JOBINDEX:-}}}}
[ -n "$INDEX" ] && [ "$INDEX" != 0 ] || INDEX=${SGE_TASK_ID:-1}
[ "$INDEX" != undefined ] || INDEX=1
JOB=${SLURM_JOB_ID:-${JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-0}}}}
CPUS=${SLURM_CPUS_PER_TASK:-${NSLOTS:-${NCPUS:-${PBS_NUM_PPN:-${LSB_DJOB_NUMPROC:-$QSMALS_CPUS}}}}}

# whatever ends this task leaves its code; 1 where qsmals was not reached
CODE=1
rm -f "$QSMALS_RUN/ended/$INDEX"
trap 'echo "$CODE" >"$QSMALS_RUN/ended/$INDEX" || true; [ -n "$QSMALS_WORK" ] || rm -rf "$WORK"' EXIT

# status.py tells by the last attempt's time whether an entry of the summary is older; locks go by the number of the
# attempt, which SLURM counts itself
mkdir -p "$QSMALS_RUN/attempts"
echo "$(date +%s) $JOB" >>"$QSMALS_RUN/attempts/$INDEX"
[ -n "${SLURM_JOB_ID:-}" ] || SLURM_RESTART_COUNT=$(($(wc -l <"$QSMALS_RUN/attempts/$INDEX") - 1))
export SLURM_RESTART_COUNT=${SLURM_RESTART_COUNT:-0}

SUBJECT=$(sed -n "${INDEX}p" "$QSMALS_RUN/subjects.txt")
if [ -n "$QSMALS_WORK" ]; then
    WORK=$QSMALS_WORK
    mkdir -p "$WORK"
else
    make_work_folder "${JOB//[^A-Za-z0-9]/-}"
fi
# what the job has; inside an image with a clean environment qsmals could not see it
LIMITS=(--nprocs "$CPUS") MEM_MIB=${SLURM_MEM_PER_NODE:-$QSMALS_MEM_MIB}
[ "$MEM_MIB" = 0 ] || LIMITS+=(--mem "$((MEM_MIB * 9 / 10))MiB")  # 0: the whole node

echo "$(date +%FT%T) $SUBJECT on $(hostname), job $JOB, attempt $((SLURM_RESTART_COUNT + 1))"
if run_qsmals participant --participant-label "$SUBJECT" -w "$WORK" "${LIMITS[@]}" "${OPTIONS[@]}"; then
    CODE=0
else
    CODE=$?
fi
echo "$(date +%FT%T) $SUBJECT ended with exit code $CODE"
exit $CODE
