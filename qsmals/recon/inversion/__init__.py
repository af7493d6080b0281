"""Susceptibility from the local field."""

from qsmals.recon.method import Registry

INVERSION = Registry(
    "inversion",
    {
        "weak-harmonic": "qsmals.recon.inversion.weakharmonic:WEAK_HARMONIC",
        "tv": "qsmals.recon.inversion.tv:TV",
        "tkd": "qsmals.recon.inversion.tkd:TKD",
        "l2": "qsmals.recon.inversion.l2:L2",
    },
)
"""Methods of dipole inversion; the first is the default."""
