"""Background field removal: total field to local field."""

from qsmals.recon.method import Registry

BACKGROUND = Registry("background", {"v-sharp": "qsmals.recon.background.vsharp:V_SHARP"})
