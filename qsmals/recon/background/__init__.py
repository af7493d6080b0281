"""Removal of the field of sources outside the mask."""

from qsmals.recon.method import Registry

BACKGROUND = Registry(
    "background",
    {
        "lbv": "qsmals.recon.background.lbv:LBV",
        "v-sharp": "qsmals.recon.background.vsharp:V_SHARP",
        "sharp": "qsmals.recon.background.sharp:SHARP",
        "resharp": "qsmals.recon.background.resharp:RESHARP",
        "ismv": "qsmals.recon.background.ismv:ISMV",
        "pdf": "qsmals.recon.background.pdf:PDF",
    },
)
"""Methods of background field removal; the first is the default."""
