"""Errors as a page shows them: with something to try."""

import re
from collections.abc import Mapping
from typing import Any

ADVICE = (
    (
        r"MemoryError|out of memory|was killed|SIGKILL|signal 9",
        "The step ran out of memory. Run the subject alone, with --nprocs 1 and more memory (--mem, or the request "
        "to the cluster).",
    ),
    (r"No space left", "A disk is full. Free space in the output and work folders, or move the work folder with -w."),
    (
        r"end-of-stream|EOFError|CRC check|could the file be damaged|not a gzip|damaged or cut",
        "An input image is damaged or cut off. Copy or convert it again.",
    ),
    (
        r"^stopped by SIG|^not run to its end",
        "The run was stopped from outside, not by a fault of this subject. Run the same command again: it goes on from "
        "there.",
    ),
    (r"EchoTime", "Each gradient-echo image needs EchoTime in its sidecar. Convert again or add it."),
    (
        r"MagneticFieldStrength|field strength",
        "The field strength is not in the sidecar. Add it, or give --field-strength.",
    ),
    (
        r"Permission denied|Read-only file",
        "A folder cannot be written. Check the rights of the output and work folders.",
    ),
)
GENERAL_ADVICE = (
    "Run the same command again: finished steps are not repeated. If the step fails again, look at the traceback, "
    "where there is one, and at the input images."
)
INPUT_CHECK = "Check of the input"
"""The step whose faults say themselves what to do."""

UNEXPLAINED = "The run failed and recorded no message. Crash files, if any, are in sub-{label}/log/."


def with_advice(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error with something to try, from the error itself or from what its words suggest.

    A fault of the input has no other advice than its own: the same command would refuse the same image again.
    """
    if error.get("step") == INPUT_CHECK:
        return {"advice": ""} | {k: v for k, v in error.items() if v}
    words = f"{error.get('message', '')} {error.get('traceback', '')}"
    guesses = [advice for pattern, advice in ADVICE if re.search(pattern, words, re.IGNORECASE)]
    return {"advice": guesses[0] if guesses else GENERAL_ADVICE} | {k: v for k, v in error.items() if v}
