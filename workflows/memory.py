"""How much memory each step holds at its peak: the process with its libraries, and arrays that grow with the images.

The numbers follow what the steps allocate and were fitted to what fresh worker processes held on heads of 3, 1.5 and
1 mm; ``benchmarks/memory.py`` measures how far a step is from its number on the machine at hand. The volumes of a
probabilistic atlas are read, resampled and written one by one, so that their number does not enter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

VOLUME_BYTES = 4
"""One float32 volume is the unit; a float64 volume counts 2, a complex64 spectrum 2, a Boolean mask 1/4."""

PLAIN_GB, KERNEL_GB, ANTS_GB = 0.165, 0.25, 0.36
"""A worker with nipype and nibabel; with scipy and compiled kernels; with ANTs."""

TEMPLATE_GB = 0.22
"""What a step with ANTs holds of a template of 1 mm, its fixed size included."""

BRAIN_BOX_ML = 4200
"""Volume of the box around the brain and its surroundings: of a large adult head, for the mask is not known before."""

MARGIN = 1.05
"""Rather a little too much: what asks for too little is killed, what asks for too much waits."""


@dataclass(frozen=True)
class Sizes:
    """Voxels of the images of a scan.

    Attributes
    ----------
    n_voxels, n_echoes : int
        Of the gradient-echo scan.
    t1w_voxels : int
        Of its T1w image; the scan's own where there is none.
    block_voxels : int
        Of the grid on which the phase offset is smoothed.
    box_voxels : int
        Of the box around the brain in which the dipole is inverted.
    """

    n_voxels: int
    n_echoes: int
    t1w_voxels: int
    block_voxels: int = 0
    box_voxels: int = 0


@dataclass(frozen=True)
class Need:
    """What a step holds at its peak.

    Attributes
    ----------
    base_gb : float
        The process with its libraries, and what does not depend on the images.
    volumes, series : float
        Volumes and multi-echo series on the grid of the scan.
    t1w, blocks, boxes : float
        Volumes on the grid of the T1w image, on the grid on which the phase offset is smoothed, and in the box around
        the brain.
    template_gb : float
        What belongs to a template.
    """

    base_gb: float = PLAIN_GB
    volumes: float = 0.0
    series: float = 0.0
    t1w: float = 0.0
    blocks: float = 0.0
    boxes: float = 0.0
    template_gb: float = 0.0

    def gigabytes(self, sizes: Sizes) -> float:
        """Memory at the peak, GB.

        Examples
        --------
        >>> round(Need(0.2, volumes=10, series=2).gigabytes(Sizes(1_000_000, 5, 0)), 3)
        0.294
        """
        volumes = sizes.n_voxels * (self.volumes + self.series * sizes.n_echoes)
        volumes += sizes.t1w_voxels * self.t1w + sizes.block_voxels * self.blocks + sizes.box_voxels * self.boxes
        return MARGIN * (self.base_gb + self.template_gb + VOLUME_BYTES * volumes / 1e9)


NEEDS: dict[str, Need] = {
    # phase and field
    "prepare": Need(PLAIN_GB, volumes=14, series=4.5),
    "offset": Need(KERNEL_GB, volumes=10, series=2.5, blocks=125),
    "unwrap": Need(0.21, volumes=4, series=4),
    "field": Need(0.335, volumes=4, series=3),
    "masks": Need(PLAIN_GB, volumes=8, series=1),
    # susceptibility
    "background": Need(KERNEL_GB, volumes=24),
    "background lbv": Need(KERNEL_GB, volumes=9.5),
    "invert": Need(KERNEL_GB, volumes=60),
    "invert nonlinear-tgv": Need(KERNEL_GB, volumes=76),
    "invert weak-harmonic": Need(0.31, volumes=7, boxes=44),
    "relax": Need(KERNEL_GB, volumes=16, series=1),
    "relax arlo": Need(KERNEL_GB, volumes=5.5, series=1),
    "reference": Need(PLAIN_GB, volumes=4.5),
    # T1w image and registrations
    "extract_brain": Need(0.55, t1w=38),
    "extract_brain gre": Need(0.55, volumes=48, series=3),
    "stay": Need(ANTS_GB),
    "tissues": Need(ANTS_GB, t1w=17),
    "register": Need(ANTS_GB, t1w=9, template_gb=0.46),
    "register given": Need(ANTS_GB, template_gb=TEMPLATE_GB),
    "register_gre": Need(ANTS_GB, volumes=9, t1w=13),
    "templates": Need(ANTS_GB, template_gb=0.9),
    "atlas": Need(ANTS_GB, template_gb=0.46),
    "refine_nuclei": Need(0.60, t1w=5),
    # resampling: to the grid of the scan, of the T1w image, of a template
    "move_mask": Need(ANTS_GB, volumes=9, t1w=8),
    "move_t1w": Need(ANTS_GB, volumes=9, t1w=8),
    "brain_to_gre": Need(ANTS_GB, volumes=9, t1w=8),
    "tissues_to_gre": Need(ANTS_GB, volumes=9, t1w=8),
    "segmentation_to_gre": Need(ANTS_GB, volumes=9, t1w=10),
    "labels_to_gre": Need(ANTS_GB, volumes=9, template_gb=TEMPLATE_GB),
    "parts_to_gre": Need(ANTS_GB, volumes=9, template_gb=TEMPLATE_GB),
    "labels_to_t1w": Need(ANTS_GB, volumes=7, t1w=9),
    "move": Need(ANTS_GB, volumes=20, t1w=10, template_gb=TEMPLATE_GB),
    "move T1w": Need(ANTS_GB, volumes=6, t1w=10),
    "move template": Need(ANTS_GB, volumes=9, template_gb=TEMPLATE_GB),
    "brain_on_template": Need(ANTS_GB, t1w=8, template_gb=TEMPLATE_GB),
    "in_view": Need(ANTS_GB, volumes=1, t1w=2, template_gb=0.06),
    # labels, tables and quality
    "cortex": Need(PLAIN_GB, volumes=16),
    "nuclei": Need(PLAIN_GB, volumes=8),
    "measure": Need(0.26, volumes=8),
    "measure probabilities": Need(0.26, volumes=11),
    "quality": Need(0.50, volumes=9, series=2.5),
    "figures": Need(0.53, volumes=4, t1w=4, template_gb=0.06),
    "facts": Need(PLAIN_GB),
    "sidecar_facts": Need(PLAIN_GB),
    # files
    "save": Need(PLAIN_GB, volumes=2),
    "save file": Need(PLAIN_GB),
    "save T1w": Need(PLAIN_GB, t1w=1),
    "save template": Need(PLAIN_GB, template_gb=0.06),
    "join": Need(0.08),
}
"""By the step's name and, after a space, its method or target; a step that has no entry of its own takes that of its
first word."""


def need_of(key: str) -> Need:
    """The entry of ``key``, else of its words before the last space or underscore.

    Examples
    --------
    >>> need_of("register_MNI152NLin6Asym") is NEEDS["register"], need_of("invert tgv") is NEEDS["invert"]
    (True, True)

    Raises
    ------
    LookupError
        No entry fits: a new step must say what it needs.
    """
    words = key
    while words not in NEEDS:
        words = words[: max(words.rfind(" "), words.rfind("_"), 0)]
        if not words:
            raise LookupError(f"workflows/memory.py does not say how much memory {key} needs")
    return NEEDS[words]


def block_voxels(shape: Sequence[int], voxel_size_mm: Sequence[float], *, sigma_mm: float = 7.0) -> int:
    """Voxels of the grid on which the phase offset is smoothed: about three to a standard deviation.

    Examples
    --------
    >>> block_voxels((180, 240, 160), (1.0, 1.0, 1.0)), block_voxels((60, 80, 60), (3.0, 3.0, 3.0))
    (864000, 288000)
    """
    return prod(-(-n // max(1, round(sigma_mm / (3 * size)))) for n, size in zip(shape, voxel_size_mm, strict=True))


def box_voxels(shape: Sequence[int], voxel_size_mm: Sequence[float]) -> int:
    """Voxels of the box around the brain, at most those of the image.

    Examples
    --------
    >>> box_voxels((180, 240, 160), (1.0, 1.0, 1.0)), box_voxels((60, 80, 20), (3.0, 3.0, 3.0))
    (4200000, 96000)
    """
    return min(prod(shape), round(1000 * BRAIN_BOX_ML / prod(voxel_size_mm)))
