# Sourced by the submit.sh of each batch system, which defines:
#
#   SYSTEM         its name
#   submit_tasks N submit $RUN/task.sh as an array of 1..N, at most $THROTTLE at once; print the job's number
#   submit_group JOB submit $RUN/group.sh, after JOB (where there is one) has ended well or not; print its number
#
# from $CPUS, $MEM (with a unit), $MEM_MIB, $LIMIT (hours:minutes:seconds), $RUN and the array ARGS.
# shellcheck shell=bash disable=SC2034

CLUSTER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    sed -n '2,/^set/{/^#/!d;s/^# \{0,1\}//;p}' "$0" >&2
    cat >&2 <<'TEXT'

  --image FILE       run this Apptainer image (default: qsmals of --venv, or of the PATH)
  --venv DIR         run qsmals of this virtual environment
  --cpus N           processors per subject (4)
  --mem SIZE         memory per subject, with a unit (16G)
  --time LIMIT       per subject, hours:minutes:seconds (4:00:00)
  --throttle N       subjects at once (20)
  --work DIR         work folder on a shared disk, so that an interrupted subject goes on where it
                     was (default: on the disk of the node, thrown away at the end)
  --subjects FILE    labels, one per line (default: every sub-* of BIDS_DIR)
  --again            also subjects that are done
  --no-group         no group job
  --args ARGS        more arguments for the submitting command, for all jobs

Subjects that logs/summary.json has as ok are left out, so the same command submitted again runs only
what is missing. The group job starts when all tasks have ended, well or not, and its log says who
failed and why; containers/cluster/status.py OUTPUT_DIR --bids BIDS_DIR says it at any time.
TEXT
    exit 2
}

IMAGE='' VENV='' CPUS=4 MEM=16G LIMIT=4:00:00 THROTTLE=20 WORK='' SUBJECTS='' AGAIN='' GROUP=yes ARGS=()
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
        --args | --sbatch) read -r -a MORE <<<"$2"; ARGS+=("${MORE[@]}"); shift 2 ;;
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
case $MEM in
    *[0-9][kK] | *[0-9][kK]B) MEM_MIB=$((${MEM%%[kK]*} / 1024)) ;;
    *[0-9] | *[0-9]M | *[0-9]MB) MEM_MIB=${MEM%%M*} ;;
    *[0-9]G | *[0-9]GB) MEM_MIB=$((${MEM%%G*} * 1024)) ;;
    *[0-9]T | *[0-9]TB) MEM_MIB=$((${MEM%%T*} * 1024 * 1024)) ;;
    *) echo "submit.sh: --mem $MEM: give a whole number and K, M, G or T" >&2; exit 2 ;;
esac

# a folder of its own for each submission: the list that its tasks count in must not change
mkdir -p "$OUT/logs/$SYSTEM"
RUN=$(mktemp -d "$OUT/logs/$SYSTEM/$(date +%Y%m%dT%H%M%S)-XXXX")
chmod 755 "$RUN"
mkdir "$RUN/ended"
# shellcheck disable=SC2086  # no word, or one
"${PYTHON:-python3}" "$CLUSTER/status.py" "$OUT" --bids "$BIDS" ${SUBJECTS:+--subjects "$SUBJECTS"} --missing $AGAIN >"$RUN/subjects.txt"
N=$(wc -l <"$RUN/subjects.txt")
printf '%s\0' "$@" >"$RUN/options"
{
    printf '%s=%q\n' QSMALS_BIDS "$BIDS" QSMALS_OUT "$OUT" QSMALS_IMAGE "$IMAGE" QSMALS_VENV "$VENV" \
        QSMALS_WORK "$WORK" QSMALS_CPUS "$CPUS" QSMALS_MEM_MIB "$MEM_MIB" QSMALS_CLUSTER "$CLUSTER"
} >"$RUN/settings"
for level in task group; do
    printf '#!/bin/bash\nQSMALS_RUN=%q\n. %q\n' "$RUN" "$CLUSTER/$level.sh" >"$RUN/$level.sh"
    chmod 755 "$RUN/$level.sh"
done

JOB=''
if [ "$N" -gt 0 ]; then
    JOB=$(submit_tasks "$N")
    echo "$JOB" >"$RUN/job"
    [ "$N" -eq 1 ] && SUBJECTS='1 subject' || SUBJECTS="$N subjects"
    echo "$SUBJECTS: job $JOB, logs in $RUN"
else
    echo "every subject is done"
fi
if [ -n "$GROUP" ]; then
    echo "group job $(submit_group "$JOB"), log $RUN/group.log"
fi
