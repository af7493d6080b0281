"""Unwrapped phase of all echoes to the total field."""

from qsmals.recon.method import Registry

FIELD = Registry(
    "field",
    {
        "weighted": "qsmals.recon.field.weighted:WEIGHTED",
        "phase-snr": "qsmals.recon.field.phasesnr:PHASE_SNR",
        "complex-fit": "qsmals.recon.field.nonlinear:NONLINEAR",
    },
)
"""Methods of field estimation; the first is the default."""
