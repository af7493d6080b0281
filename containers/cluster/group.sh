# The group level, after all tasks of the array have ended; sourced by $QSMALS_RUN/group.sh, which sets QSMALS_RUN.
# shellcheck shell=bash
set -euo pipefail
# shellcheck source=/dev/null
. "$QSMALS_RUN/settings"
# shellcheck source=containers/cluster/run.sh
. "$QSMALS_CLUSTER/run.sh"

trap 'rm -rf "$WORK"' EXIT
make_work_folder group
WHO=()
if [[ " ${OPTIONS[*]}" == *' --config-file'* ]]; then  # it may name the participants of another run; here it is all
    shopt -s nullglob
    WHO=("$QSMALS_OUT"/sub-*/ "$QSMALS_BIDS"/sub-*/)
    WHO=("${WHO[@]%/}")
    mapfile -t WHO < <(printf '%s\n' "${WHO[@]##*/}" | sort -u)
    WHO=(--participant-label "${WHO[@]}")
fi
CODE=0
run_qsmals group -w "$WORK" "${WHO[@]}" "${OPTIONS[@]}" || CODE=$?
"${PYTHON:-python3}" "$QSMALS_CLUSTER/status.py" "$QSMALS_OUT" --bids "$QSMALS_BIDS" || true
exit $CODE
