#!/bin/bash
# Run a study on a SLURM cluster: one array task per subject, then the group level.
#
#   containers/slurm/submit.sh [options] BIDS_DIR OUTPUT_DIR [-- options of qsmals participant]
#
#   --image FILE       run this Apptainer image (default: qsmals of --venv, or of the PATH)
#   --venv DIR         run qsmals of this virtual environment
#   --cpus N           processors per subject (4)
#   --mem SIZE         memory per subject, as sbatch takes it (16G)
#   --time LIMIT       per subject, as sbatch takes it (4:00:00)
#   --throttle N       subjects at once (20)
#   --work DIR         work folder on a shared disk, so that an interrupted subject goes on where it
#                      was (default: on the disk of the node, thrown away at the end)
#   --subjects FILE    labels, one per line (default: every sub-* of BIDS_DIR)
#   --again            also subjects that are done
#   --no-group         no group job
#   --sbatch ARGS      more arguments of sbatch for all jobs, e.g. "--partition=long --account=als"
#
# Subjects that logs/summary.json has as ok are left out, so the same command submitted again runs
# only what is missing. The group job starts when all tasks have ended, well or not, and says who
# failed and why; containers/slurm/status.py OUTPUT_DIR says it at any time.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,/^set/{/^#/!d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

IMAGE='' VENV='' CPUS=4 MEM=16G LIMIT=4:00:00 THROTTLE=20 WORK='' SUBJECTS='' AGAIN='' GROUP=yes SBATCH=''
while [ $# -gt 0 ]; do
    case $1 in
        --image) IMAGE=$(realpath -e "$2"); shift 2 ;;
        --venv) VENV=$(realpath -e "$2"); shift 2 ;;
        --cpus) CPUS=$2; shift 2 ;;
        --mem) MEM=$2; shift 2 ;;
        --time) LIMIT=$2; shift 2 ;;
        --throttle) THROTTLE=$2; shift 2 ;;
        --work) WORK=$(realpath -m "$2"); shift 2 ;;
        --subjects) SUBJECTS=$(realpath -e "$2"); shift 2 ;;
        --again) AGAIN=--all; shift ;;
        --no-group) GROUP=''; shift ;;
        --sbatch) SBATCH=$2; shift 2 ;;
        -*) echo "submit.sh: unknown option $1" >&2; usage ;;
        *) break ;;
    esac
done
[ $# -ge 2 ] || usage
BIDS=$(realpath -e "$1") OUT=$(realpath -m "$2"); shift 2
if [ $# -gt 0 ]; then
    [ "$1" = -- ] || { echo "submit.sh: options of qsmals come after --" >&2; usage; }
    shift
fi

# a folder of its own for each submission: the list that its tasks count in must not change
mkdir -p "$OUT/logs/slurm"
RUN=$(mktemp -d "$OUT/logs/slurm/$(date +%Y%m%dT%H%M%S)-XXXX")
chmod 755 "$RUN"
# shellcheck disable=SC2086  # no word, or one
"${PYTHON:-python3}" "$HERE/status.py" "$OUT" --bids "$BIDS" ${SUBJECTS:+--subjects "$SUBJECTS"} --missing $AGAIN >"$RUN/subjects.txt"
N=$(wc -l <"$RUN/subjects.txt")
printf '%s\0' "$@" >"$RUN/options"
export QSMALS_BIDS=$BIDS QSMALS_OUT=$OUT QSMALS_RUN=$RUN QSMALS_IMAGE=$IMAGE QSMALS_VENV=$VENV QSMALS_WORK=$WORK
export QSMALS_STATUS=$HERE/status.py

AFTER=()
if [ "$N" -gt 0 ]; then
    # shellcheck disable=SC2086  # several arguments
    JOB=$(sbatch --parsable --job-name=qsmals --array="1-$N%$THROTTLE" --cpus-per-task="$CPUS" --mem="$MEM" \
        --time="$LIMIT" --output="$RUN/task-%a.log" --export=ALL $SBATCH "$HERE/participant.sbatch")
    JOB=${JOB%%;*}
    echo "$N subjects: array job $JOB, logs in $RUN"
    AFTER=(--dependency="afterany:$JOB")
else
    echo "every subject is done"
fi
if [ -n "$GROUP" ]; then
    # shellcheck disable=SC2086
    JOB=$(sbatch --parsable --job-name=qsmals-group "${AFTER[@]}" --cpus-per-task=1 --mem=4G --time=1:00:00 \
        --output="$RUN/group.log" --export=ALL $SBATCH "$HERE/group.sbatch")
    echo "group job ${JOB%%;*}, log $RUN/group.log"
fi
