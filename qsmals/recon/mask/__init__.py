"""Where a field can be trusted: tissue, brain, and phase quality."""

from qsmals.recon.method import Registry

MASK = Registry(
    "mask",
    {
        "brain-and-quality": "qsmals.recon.mask.quality:BRAIN_AND_QUALITY",
        "brain-and-magnitude": "qsmals.recon.mask.signal:BRAIN_AND_MAGNITUDE",
        "brain": "qsmals.recon.mask.brain:BRAIN",
        "quality": "qsmals.recon.mask.everywhere:QUALITY",
        "magnitude": "qsmals.recon.mask.everywhere:MAGNITUDE",
    },
)
"""Methods that decide where the field is used; the first is the default."""
