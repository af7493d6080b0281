"""The stages of the reconstruction and the registry of each, in the order in which they run."""

from qsmals.recon.background import BACKGROUND
from qsmals.recon.field import FIELD
from qsmals.recon.inversion import INVERSION
from qsmals.recon.mask import MASK
from qsmals.recon.method import Registry
from qsmals.recon.phase import PHASE_OFFSET
from qsmals.recon.relaxometry import RELAXOMETRY
from qsmals.recon.unwrap import UNWRAP

STAGES: dict[str, Registry] = {
    "phase_offset": PHASE_OFFSET,
    "unwrap": UNWRAP,
    "field": FIELD,
    "mask": MASK,
    "background": BACKGROUND,
    "inversion": INVERSION,
    "relaxometry": RELAXOMETRY,
}
