# Sourced by the jobs: run_qsmals LEVEL [options], in the image, the virtual environment or the PATH.
# shellcheck shell=bash

run_qsmals() {
    local level=$1; shift
    if [ -n "${QSMALS_IMAGE:-}" ]; then
        local binds=(-B "$QSMALS_BIDS:$QSMALS_BIDS:ro" -B "$QSMALS_OUT:$QSMALS_OUT")
        [ -z "${WORK:-}" ] || binds+=(-B "$WORK:$WORK")
        "$(command -v apptainer || command -v singularity)" run --containall --cleanenv --no-home \
            "${binds[@]}" "$QSMALS_IMAGE" "$QSMALS_BIDS" "$QSMALS_OUT" "$level" "$@" &
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
