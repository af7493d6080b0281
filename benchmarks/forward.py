"""The images of a simulated data set made anew by qsm-forward: the same head through a simulator of other authors."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from qsmals.engine.files import write_text
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.simulate.labels import tissue_index
from qsmals.simulate.tissue import TISSUES

REPETITION_TIME_S = 0.035
FLIP_ANGLE_DEG = 15.0


def remake(bids: Path, subject: str, peak_snr: float) -> None:
    """Write magnitude, phase and true fields of qsm-forward over those of a data set with a monopolar, untilted scan.

    Susceptibility and R2* of the brain are those of the data set's truth, of what surrounds it the simulator's tissue
    values for the true labels. Field, shim, phase offset, signal and noise are qsm-forward's: dipole cut off in
    k-space, no chemical shift, no motion, no partial volume.
    """
    from qsm_forward import qsm_forward as forward

    truth = bids / "derivatives" / "truth" / subject
    chi_image = nib.load(truth / "anat" / f"{subject}_desc-truth_Chimap.nii.gz")
    brain = voxels(truth / "anat" / f"{subject}_desc-brain_mask.nii.gz") > 0
    labels = np.rint(voxels(truth / "anat" / f"{subject}_seg-truth_dseg.nii.gz")).astype(np.int16)
    chi, r2star, rho, r1 = properties(labels)
    chi[brain] = np.asarray(chi_image.dataobj, np.float32)[brain]
    r2star[brain] = voxels(truth / "anat" / f"{subject}_desc-truth_R2starmap.nii.gz")[brain]
    size = [float(s) for s in chi_image.header.get_zooms()[:3]]
    total = forward.generate_field(chi, mask=brain, voxel_size=size, B0_dir=[0, 0, 1])
    own = forward.generate_field(np.where(brain, chi, 0), voxel_size=size, B0_dir=[0, 0, 1])
    _, shimmed, _ = forward.generate_shimmed_field(total, brain, order=2)
    offset = forward.generate_phase_offset(rho, rho > 0, list(chi.shape))
    rng, noise = np.random.default_rng(0), None
    for sidecar in sorted((bids / subject / "anat").glob("*_part-phase_MEGRE.json")):
        facts = json.loads(sidecar.read_text())
        signal = forward.generate_signal(
            shimmed,
            B0=facts["MagneticFieldStrength"],
            TR=REPETITION_TIME_S,
            TE=facts["EchoTime"],
            flip_angle=FLIP_ANGLE_DEG,
            phase_offset=offset,
            R1=r1,
            R2star=r2star,
            M0=rho,
        )
        strength = np.abs(signal)
        noise = noise or strength[brain].max() / peak_snr  # that of the brain in the first echo, the same in all
        noisy = forward.add_noise(signal, peak_snr=strength.max() / noise, rng=rng)
        save(np.angle(noisy), sidecar.with_suffix(".nii.gz"), chi_image)
        magnitude = sidecar.name.replace("part-phase", "part-mag").replace(".json", ".nii.gz")
        save(np.abs(noisy), sidecar.with_name(magnitude), chi_image)
        write_text(sidecar, json.dumps(facts | {"Units": "rad"}, indent=2))
    hertz = GAMMA_BAR_MHZ_PER_TESLA * facts["MagneticFieldStrength"]
    for name, field in (("total", shimmed), ("local", own)):
        save(field * hertz, truth / "fmap" / f"{subject}_desc-{name}_fieldmap.nii.gz", chi_image)


def properties(labels: NDArray[np.int16]) -> tuple[NDArray[np.float32], ...]:
    """Susceptibility, ppm, R2*, 1/s, proton density and R1, 1/s, of every voxel from its label."""
    names = tuple(TISSUES)
    tissue = tissue_index(labels, names)
    columns = [(t.chi_ppb * 1e-3, t.r2star_hz, t.proton_density, t.r1_hz) for t in TISSUES.values()]
    chi, r2star, rho, r1 = np.array(columns, np.float32).T
    return chi[tissue], r2star[tissue], rho[tissue], r1[tissue]


def voxels(path: Path) -> NDArray[np.float32]:
    """Array of an image."""
    return np.asarray(nib.load(path).dataobj, dtype=np.float32)


def save(volume: NDArray[Any], path: Path, like: Any) -> None:
    """A float32 image on the grid of another."""
    nib.save(nib.Nifti1Image(np.asarray(volume, dtype=np.float32), like.affine), path)
