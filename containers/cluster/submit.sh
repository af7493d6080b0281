# Sourced by the submit.sh of each batch system, which defines:
#
#   SYSTEM              its name
#   largest_array       print how many tasks an array may have
#   submit_tasks N      submit $RUN/task.sh as an array of 1..N, at most $AT_ONCE at once; print the job's number,
#                       or fail (set -e does not hold in it)
#   submit_group JOB... submit $RUN/group.sh, after all of JOB (there may be none) have ended well or not; the same
#
# from $RUN, the array ARGS, and for tasks and group job $CPUS and $GROUP_CPUS, $MEM and $GROUP_MEM (with a unit),
# $MEM_MIB and $GROUP_MIB, $LIMIT and $GROUP_LIMIT (hours:minutes:seconds).
# shellcheck shell=bash disable=SC2034

CLUSTER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage() {
    sed -n '2,/^set/{/^#/!d;s/^# \{0,1\}//;p}' "$0" >&2
    cat >&2 <<'TEXT'

  --image FILE       run this Apptainer image (default: qsmals of --venv, or of the PATH)
  --venv DIR         run qsmals of this virtual environment
  --cpus N           processors per subject (4)
  --mem SIZE         memory per subject, a whole number with a unit (16G); on SLURM also 0, the whole node
  --time LIMIT       per subject, hours:minutes:seconds (4:00:00)
  --group-cpus N     processors of the group job (1)
  --group-mem SIZE   its memory (4G)
  --group-time LIMIT its time (1:00:00)
  --throttle N       subjects at once (20)
  --max-array N      subjects in one array at most; more are several arrays, among which --throttle is
                     shared out (what the cluster allows, where it says so; else its usual limit)
  --work DIR         work folder on a shared disk, so that an interrupted subject goes on where it
                     was (default: on the disk of the node, removed when the task ends)
  --bind PATH        one more file or folder that the image may read, such as one that a file of
                     settings names (repeatable; the paths among the options of qsmals are seen)
  --subjects FILE    labels, one per line (default: every sub-* of BIDS_DIR)
  --again            also subjects that are done
  --no-group         no group job
  --args ARGS        more arguments for the submitting command, for all jobs

Subjects of which logs/summary.json has every session as ok (or those that --session-label of qsmals
chooses) are left out, unless a newer task of theirs has not ended well, so the same command submitted
again runs only what is missing. The group job gets the options of qsmals, too; it starts when all
tasks have ended, well or not, and its log says who failed and why;
containers/cluster/status.py OUTPUT_DIR --bids BIDS_DIR says it at any time.
TEXT
    exit 2
}

# An existing path made absolute: its folder is followed to where it lies, but it keeps its own name, as a file of
# a DataLad data set is a link to one of another name.
absolute() {
    local path=${1%/} folder
    realpath -e "$1" >/dev/null || return
    case $path in
        '' | . | .. | */. | */..) realpath -e "$1" ;;
        *) folder=$(realpath -e "$(dirname "$path")") && echo "${folder%/}/${path##*/}" ;;
    esac
}

# Options of qsmals that name files or folders; for another a word without a slash is a label, whatever lies here.
names_files() {
    case $1 in
        -d | --derivatives | --atlas | --bids-filter-file | --bids-database-dir) ;;
        --config-file | --qc-thresholds | --use-plugin) ;;
        *) return 1 ;;
    esac
}

# make_absolute OPTION VALUE: the value for a job, which starts in another folder, in REPLY; its path in PATHS.
make_absolute() {
    local path=$2 rest=''
    REPLY=$2
    [[ $path == */* ]] || names_files "$1" || return 0
    if [ ! -e "$path" ] && [[ $path == *'{'* ]]; then  # {subject} and {session}: the folder above is what is there
        path=$(dirname "${path%%\{*}x") && rest=/${2#"$path/"}
    fi
    if [ -e "$path" ]; then
        path=$(absolute "$path")
    elif [[ $path != /* ]]; then  # an absolute one may be on the nodes alone
        return 0
    fi
    PATHS+=("$path")
    REPLY=$path$rest
}

# The options of qsmals with absolute paths in OPTIONS, and these paths in PATHS.
read_options() {
    local word option='' head value parts table i
    for word in "$@"; do
        head='' value=$word
        case $word in
            --*=*) option=${word%%=*} head=$option= value=${word#*=} ;;
            -d?*) option=-d head=-d value=${word#-d} ;;
            -*) option=$word head=$word value='' ;;
        esac
        case $option in
            -w* | --work-dir) echo "submit.sh: the work folder is given with --work, before BIDS_DIR" >&2; exit 2 ;;
            --participant-label | --participant_label)
                echo "submit.sh: $option: whom to run is said with --subjects FILE, before BIDS_DIR" >&2; exit 2 ;;
        esac
        if [ ! -e "$value" ] && [[ $value == *=* ]]; then  # NAME=
            head+=${value%%=*}= value=${value#*=}
        fi
        if [ "$option" = --atlas ]; then  # FILE[,LABELS.tsv[,SPACE]]
            IFS=, read -r -a parts <<<"$value"
            for ((i = 0; i < ${#parts[@]} && i < 2; i++)); do
                make_absolute "$option" "${parts[i]}"
                parts[i]=$REPLY
            done
            value=$(IFS=, && echo "${parts[*]}")
            table=${parts[0]:-} table=${table%.gz} table=${table%.*}.tsv  # taken where LABELS.tsv is not given
            [[ $table != /* ]] || PATHS+=("$table")
        else
            make_absolute "$option" "$value"
            value=$REPLY
        fi
        OPTIONS+=("$head$value")
    done
}

# The sessions that the options of qsmals choose, in SESSIONS.
read_sessions() {
    local word taking=''
    for word in "$@"; do
        case $word in
            --session-label | --session_label | --session-id) taking=yes ;;
            --session-label=* | --session_label=* | --session-id=*) SESSIONS+=("${word#*=}") taking='' ;;
            -*) taking='' ;;
            *) [ -z "$taking" ] || SESSIONS+=("$word") ;;
        esac
    done
}

IMAGE='' VENV='' CPUS=4 MEM=16G LIMIT=4:00:00 GROUP_CPUS=1 GROUP_MEM=4G GROUP_LIMIT=1:00:00
THROTTLE=20 MAX_ARRAY='' WORK='' SUBJECTS='' AGAIN='' GROUP=yes
ARGS=() SESSIONS=() OPTIONS=() PATHS=() BINDS=()
while [ $# -gt 0 ]; do
    case $1 in
        --image) IMAGE=$(realpath -e "$2"); shift 2 ;;
        --venv) VENV=$(realpath -e "$2"); shift 2 ;;
        --cpus) CPUS=$2; shift 2 ;;
        --mem) MEM=$2; shift 2 ;;
        --time) LIMIT=$2; shift 2 ;;
        --group-cpus) GROUP_CPUS=$2; shift 2 ;;
        --group-mem) GROUP_MEM=$2; shift 2 ;;
        --group-time) GROUP_LIMIT=$2; shift 2 ;;
        --throttle) THROTTLE=$2; shift 2 ;;
        --max-array) MAX_ARRAY=$2; shift 2 ;;
        --work) WORK=$(realpath -m "$2"); shift 2 ;;
        --bind) BIND=$(absolute "$2"); PATHS+=("$BIND"); shift 2 ;;
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
read_options "$@"
read_sessions "$@"
[ ${#SESSIONS[@]} -eq 0 ] || SESSIONS=(--session-label "${SESSIONS[@]}")
for path in "${PATHS[@]}"; do  # what lies in BIDS_DIR or OUTPUT_DIR comes with these
    case $path/ in "$BIDS"/* | "$OUT"/*) ;; *) BINDS+=("$path") ;; esac
done
for path in "$BIDS" "$OUT" "$WORK" "${BINDS[@]}"; do
    if [ -n "$IMAGE" ] && [[ $path == *[,:]* ]]; then
        echo "submit.sh: $path: Apptainer cannot bind a path with a comma or a colon; rename it" >&2
        exit 2
    fi
done

# read_memory OPTION SIZE: the size as number and unit in MEMORY, and in MiB
read_memory() {
    local number unit
    if [[ $2 =~ ^([1-9][0-9]{0,11})([KMGTkmgt])B?$ ]]; then
        number=${BASH_REMATCH[1]} unit=${BASH_REMATCH[2]^}
        MEMORY=$number$unit
        case $unit in
            K) MIB=$(((number + 1023) / 1024)) ;;
            M) MIB=$number ;;
            G) MIB=$((number * 1024)) ;;
            T) MIB=$((number * 1024 * 1024)) ;;
        esac
    elif [ "$SYSTEM $2" = 'slurm 0' ]; then
        MEMORY=0 MIB=0
    else
        echo "submit.sh: $1 $2: give a whole number above 0 and K, M, G or T, as 16G (on SLURM 0: the whole node)" >&2
        exit 2
    fi
}
read_memory --mem "$MEM"
MEM=$MEMORY MEM_MIB=$MIB
read_memory --group-mem "$GROUP_MEM"
GROUP_MEM=$MEMORY GROUP_MIB=$MIB

[ -n "$MAX_ARRAY" ] || MAX_ARRAY=$(largest_array)
for word in "cpus $CPUS" "group-cpus $GROUP_CPUS" "throttle $THROTTLE" "max-array $MAX_ARRAY"; do
    [[ ${word#* } =~ ^[1-9][0-9]{0,8}$ ]] || { echo "submit.sh: --$word: give a whole number above 0" >&2; exit 2; }
done

QUEUED=$(mktemp)
trap 'rm -f "$QUEUED"' EXIT
# shellcheck disable=SC2086  # no word, or one
MISSING=$("${PYTHON:-python3}" "$CLUSTER/status.py" "$OUT" --bids "$BIDS" ${SUBJECTS:+--subjects "$SUBJECTS"} \
    "${SESSIONS[@]}" --missing $AGAIN --queued "$QUEUED") || { echo "submit.sh: nothing was submitted" >&2; exit 1; }
LABELS=() EARLIER=() JOBS=()
[ -z "$MISSING" ] || mapfile -t LABELS <<<"$MISSING"
mapfile -t EARLIER < <(sed -n 's/^job //p' "$QUEUED")
WAITING=$(grep -vc '^job ' "$QUEUED") || true

# make_run [LABEL...]: a folder of its own for each array, in RUN: the list that its tasks count in must not change
make_run() {
    mkdir -p "$OUT/logs/$SYSTEM"
    RUN=$(mktemp -d "$OUT/logs/$SYSTEM/$(date +%Y%m%dT%H%M%S)-XXXX")
    chmod 755 "$RUN"
    mkdir "$RUN/ended"
    printf '%s\0' "${OPTIONS[@]}" >"$RUN/options"
    printf '%s\0' "${BINDS[@]}" | LC_ALL=C sort -zu >"$RUN/binds"  # folders before what lies in them
    {
        printf '%s=%q\n' QSMALS_BIDS "$BIDS" QSMALS_OUT "$OUT" QSMALS_IMAGE "$IMAGE" QSMALS_VENV "$VENV" \
            QSMALS_WORK "$WORK" QSMALS_CPUS "$CPUS" QSMALS_MEM_MIB "$MEM_MIB" QSMALS_CLUSTER "$CLUSTER"
    } >"$RUN/settings"
    local level
    for level in task group; do
        printf '#!/bin/bash\nQSMALS_RUN=%q\n. %q\n' "$RUN" "$CLUSTER/$level.sh" >"$RUN/$level.sh"
        chmod 755 "$RUN/$level.sh"
    done
    [ $# -eq 0 ] || printf '%s\n' "$@" >"$RUN/subjects.txt"
}

# What the batch system itself said stands above.
refused() {
    local before=''
    [ ${#JOBS[@]} -eq 0 ] || before=" (what was submitted before stays: ${JOBS[*]})"
    echo "submit.sh: $SYSTEM did not take the tasks of $(count "$1"): they do not run, and no group job does$before" >&2
    rm -rf "$RUN"  # status.py would wait for its tasks
    exit 1
}
group_refused() {
    echo "submit.sh: $SYSTEM did not take the group job; the same command submits it again" >&2
    exit 1
}
count() { [ "$1" -eq 1 ] && echo '1 subject' || echo "$1 subjects"; }

N=${#LABELS[@]} ARRAYS=$(((${#LABELS[@]} + MAX_ARRAY - 1) / MAX_ARRAY))
for ((i = 0; i < ARRAYS; i++)); do  # of about the same size, so that they end at about the same time
    FIRST=$((N * i / ARRAYS)) SIZE=$((N * (i + 1) / ARRAYS - N * i / ARRAYS))
    AT_ONCE=$((THROTTLE * (i + 1) / ARRAYS - THROTTLE * i / ARRAYS))
    [ "$AT_ONCE" -gt 0 ] || AT_ONCE=1
    make_run "${LABELS[@]:FIRST:SIZE}"
    JOB=$(submit_tasks "$SIZE") && [ -n "$JOB" ] || refused "$((N - FIRST))"
    echo "$JOB" >"$RUN/job"
    JOBS+=("$JOB")
    echo "$(count "$SIZE"): job $JOB, logs in $RUN"
done
if [ "$N" -eq 0 ] && [ "$WAITING" -gt 0 ]; then
    echo "nothing to submit: $(count "$WAITING") queued or running, every other is done"
elif [ "$N" -eq 0 ]; then
    echo "every subject is done"
fi
if [ -n "$GROUP" ]; then
    [ "$N" -gt 0 ] || make_run
    # after what was submitted before, too: the tables that it collects would lack those subjects
    GROUP_JOB=$(submit_group "${EARLIER[@]}" "${JOBS[@]}") && [ -n "$GROUP_JOB" ] || group_refused
    echo "$GROUP_JOB" >"$RUN/group_job"
    echo "group job $GROUP_JOB, log $RUN/group.log"
fi
