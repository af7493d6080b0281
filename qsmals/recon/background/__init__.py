"""Removal of the field of sources outside the mask."""

from qsmals.recon.method import Registry

BACKGROUND = Registry("background", {"v-sharp": "qsmals.recon.background.vsharp:V_SHARP"})
"""Methods of background field removal; the first is the default."""
