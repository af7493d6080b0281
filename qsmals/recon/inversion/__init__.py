"""Susceptibility from the local field."""

from qsmals.recon.method import Registry

INVERSION = Registry(
    "inversion",
    {
        "weak-harmonic": "qsmals.recon.inversion.weakharmonic:WEAK_HARMONIC",
        "tv": "qsmals.recon.inversion.tv:TV",
        "tkd": "qsmals.recon.inversion.tkd:TKD",
        "l2": "qsmals.recon.inversion.l2:L2",
        "rts": "qsmals.recon.inversion.rts:RTS",
        "hd-qsm": "qsmals.recon.inversion.hdqsm:HDQSM",
        "ilsqr": "qsmals.recon.inversion.ilsqr:ILSQR",
        "ndi": "qsmals.recon.inversion.ndi:NDI",
        "nonlinear-tv": "qsmals.recon.inversion.nonlineartv:NONLINEAR_TV",
        "nonlinear-weak-harmonic": ("qsmals.recon.inversion.nonlinearweakharmonic:NONLINEAR_WEAK_HARMONIC"),
        "nonlinear-tgv": "qsmals.recon.inversion.nonlineartgv:NONLINEAR_TGV",
        "tgv": "qsmals.recon.inversion.tgv:TGV",
        "medi": "qsmals.recon.inversion.medi:MEDI",
        "medi-0": "qsmals.recon.inversion.medi0:MEDI_0",
    },
)
"""Methods of dipole inversion; the first is the default."""
