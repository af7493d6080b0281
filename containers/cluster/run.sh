# Sourced by the jobs: run_qsmals LEVEL [options], in the image, the virtual environment or the PATH.
# shellcheck shell=bash

# the options of qsmals that submit.sh was given
mapfile -d '' -t OPTIONS <"$QSMALS_RUN/options"
[ "${#OPTIONS[@]}" -ne 1 ] || [ -n "${OPTIONS[0]}" ] || OPTIONS=()

# not the folder that some sites name so in everybody's environment: what WORK names is removed at the end
WORK=''
# the batch system hands on the TMPDIR of the login node, which need not be here
for TMPDIR in "${SLURM_TMPDIR:-}" "${TMPDIR:-}" /tmp; do
    [ -d "$TMPDIR" ] && [ -w "$TMPDIR" ] && [ -x "$TMPDIR" ] && break
done
export TMPDIR

# make_work_folder NAME: an own folder on the node's disk, in WORK. Who made one holds a lock in it for as long as a
# process of the job lives, so that what a killed job left is told from what is in use, and removed here.
make_work_folder() {
    local left
    while IFS= read -r -d '' left; do
        # a disk may be shared by nodes that do not see each other's locks
        if [ "$(cat "$left/.job" 2>/dev/null)" = "$(hostname)" ]; then
            flock -n "$left/.job" rm -rf "$left" || true
        fi
    done < <(find "$TMPDIR" -maxdepth 1 -type d -name 'qsmals-*' -user "$(id -u)" -print0 2>/dev/null)
    WORK=$(mktemp -d "$TMPDIR/qsmals-$1-XXXX")
    exec 9>"$WORK/.job"
    # without a lock the name of the node is not written either, and nobody takes the folder for a leftover
    if flock -n 9; then hostname >&9; fi
}

run_qsmals() {
    local level=$1; shift
    if [ -n "${QSMALS_IMAGE:-}" ]; then
        local program name path prefix=APPTAINERENV_ binds=()
        program=$(command -v apptainer || command -v singularity) ||
            { echo "neither apptainer nor singularity is to be found on $(hostname)" >&2; return 127; }
        case $program in *singularity) prefix=SINGULARITYENV_ ;; esac
        # by these an attempt that follows another of the same task knows the other's lock
        for name in SLURM_JOB_ID SLURM_RESTART_COUNT PBS_JOBID LSB_JOBID LSB_JOBINDEX JOB_ID SGE_TASK_ID; do
            [ -z "${!name:-}" ] || export "$prefix$name=${!name}"
        done
        while IFS= read -r -d '' path; do
            [ ! -e "$path" ] || binds+=(-B "$path:$path:ro")
        done <"$QSMALS_RUN/binds"
        binds+=(-B "$QSMALS_BIDS:$QSMALS_BIDS:ro" -B "$QSMALS_OUT:$QSMALS_OUT")
        [ -z "${WORK:-}" ] || binds+=(-B "$WORK:$WORK")
        "$program" run --containall --cleanenv --no-home "${binds[@]}" \
            "$QSMALS_IMAGE" "$QSMALS_BIDS" "$QSMALS_OUT" "$level" "$@" &
    elif [ -n "${QSMALS_VENV:-}" ]; then
        "$QSMALS_VENV/bin/qsmals" "$QSMALS_BIDS" "$QSMALS_OUT" "$level" "$@" &
    else
        qsmals "$QSMALS_BIDS" "$QSMALS_OUT" "$level" "$@" &
    fi
    # the batch system signals this shell before it kills: pass it on, and let the reports be written
    local child=$! code=0
    trap 'kill -TERM $child 2>/dev/null' TERM INT USR1 USR2 XCPU
    wait $child || code=$?
    while kill -0 $child 2>/dev/null; do code=0; wait $child || code=$?; done
    trap - TERM INT USR1 USR2 XCPU
    return $code
}
