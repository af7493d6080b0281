"""A preset is what its paper says, number by number, and it runs."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from qsmals.cli.methods import chosen_methods, preset_words, step_parameters
from qsmals.cli.parser import parse
from qsmals.recon.background.vsharp import sphere_radii_mm
from qsmals.recon.dipole import dipole_field
from qsmals.recon.field.weights import LARGEST_WEIGHT, inverse_noise
from qsmals.recon.grid import Grid
from qsmals.recon.inversion.medi import MERIT_FACTOR
from qsmals.recon.inversion.solution import checked_inputs
from qsmals.recon.presets import PRESETS
from qsmals.recon.stages import STAGES
from qsmals.reports.boilerplate import methods_text
from qsmals.settings import Reconstruction, Settings, read_toml, write_toml
from tests.phase_phantom import B0_TESLA, ellipsoid, signal

TE_S = (0.004, 0.009, 0.014, 0.019, 0.024)


def reconstruction(name: str) -> Reconstruction:
    return Reconstruction(preset=name, **PRESETS[name].reconstruction)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small volumes only lose time to threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    (tmp_path / "bids").mkdir()
    return [str(tmp_path / "bids"), str(tmp_path / "out"), "participant"]


def test_the_consensus_preset_has_the_numbers_of_the_paper() -> None:
    """Bilgic 2024, doi:10.1002/mrm.30006, with the settings files of its demonstration."""
    chosen = chosen_methods(reconstruction("consensus"), TE_S, 3.0)
    names = {stage: method.name for stage, (method, _) in chosen.items()}
    assert names == {
        "phase_offset": "mcpc-3d-s",
        "unwrap": "romeo",
        "field": "phase-snr",
        "mask": "brain",
        "background": "v-sharp",
        "inversion": "nonlinear-weak-harmonic",
        "relaxometry": "arlo",
    }
    assert reconstruction("consensus").reference == "brain"
    found: dict[str, Any] = {stage: params for stage, (_, params) in chosen.items()}
    assert found["phase_offset"].sigma_mm == 7.0  # of the ROMEO program, whose correction is "On"
    assert found["unwrap"].template_echo == 1
    assert found["unwrap"].weights == ("phase-coherence", "gradient-coherence", "magnitude-coherence")  # "romeo3"
    assert found["field"].largest_residual == 0.3
    assert found["background"].erosion_voxels == 1  # before, and none after
    assert found["background"].threshold == 0.05
    radii = sphere_radii_mm(found["background"], Grid((40, 40, 40), (0.8, 0.8, 0.8)))
    assert radii == pytest.approx([0.8 * n for n in range(12, 0, -1)])
    inversion = found["inversion"]
    assert inversion.regularisation == 5e-4  # lambda
    assert inversion.gradient_penalty == 5e-2  # mu1
    assert inversion.field_penalty == 1.0  # mu2
    assert inversion.harmonic_weight == 150.0  # beta
    assert inversion.harmonic_penalty == 3.0  # muh
    assert inversion.tolerance == pytest.approx(0.1 / 100)  # tol, percent
    assert inversion.max_iterations == 400
    assert inversion.gradient_weighting == "vector-field"
    assert inversion.padding_mm == 0.0  # SEPIA only makes sizes even
    assert inversion.rad_per_ppm == 1.0  # FANSI gets the field in ppm, at any field strength
    assert chosen_methods(reconstruction("consensus"), TE_S, 7.0)["inversion"][1] == inversion


def test_the_alternative_preset_has_the_numbers_of_the_paper() -> None:
    chosen = chosen_methods(reconstruction("consensus-medi"), TE_S, 3.0)
    plain = chosen_methods(reconstruction("consensus"), TE_S, 3.0)
    assert {k: v for k, v in chosen.items() if k != "inversion"} == {k: v for k, v in plain.items() if k != "inversion"}
    method, params = chosen["inversion"]
    assert method.name == "medi"  # MEDI+0 off
    assert params.medi_lambda == 2000
    assert 3 * params.edge_fraction == pytest.approx(0.9)  # percentage 90
    assert params.smv_radius_mm == 5 and params.merit
    assert params.padding_mm == 0.0  # zero pad 0
    assert MERIT_FACTOR == 6.0 and params.merit_times == 10  # of the MEDI toolbox
    assert params.rad_per_ppm == pytest.approx(2 * np.pi * 42.577478 * 3.0 * 0.005, rel=1e-4)
    assert params.variation_mm == pytest.approx(1 / (2 * params.rad_per_ppm * 2000))


def test_data_are_weighted_as_the_paper_does() -> None:
    """wData 1: one over the noise, with a mean of 1 in the mask; but no weight is above three medians."""
    noise = np.random.default_rng(1).uniform(5e-4, 2e-3, (6, 7, 8)).astype(np.float32)
    noise[0, 0, 0], noise[0, 0, 1] = np.inf, 1e-5
    mask = np.ones(noise.shape, bool)
    weight = inverse_noise(noise, mask)
    plain = mask.copy()
    plain[0, 0, :2] = False
    np.testing.assert_allclose(weight[plain] * noise[plain], np.median(noise[np.isfinite(noise)]), rtol=1e-4)
    assert weight[0, 0, 0] == 0 and weight[0, 0, 1] == pytest.approx(3 * np.median(weight[weight > 0]), rel=0.02)
    local = np.zeros(noise.shape, np.float32)
    _, scaled = checked_inputs(local, mask, Grid(noise.shape, (1.0, 1.0, 1.0)), weight)
    assert scaled[mask].mean() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("consensus", "susceptibility and harmonic phase solved for at once"),
        ("consensus-medi", "ADMM in place of Gauss-Newton steps, edges only of the image inside the mask"),
    ],
)
def test_a_preset_names_where_it_is_not_the_paper(name: str, own: str) -> None:
    recon = reconstruction(name)
    markdown, _ = methods_text(
        list(chosen_methods(recon, TE_S, 3.0).values()),
        acquisition={}, anatomy={}, versions={"qsmals": "1"}, preset=preset_words(recon),
    )  # fmt: skip
    for words in (
        "brain mask from the T1-weighted image",
        "weights of at most three times their median",
        own,
    ):
        assert words in markdown
    assert LARGEST_WEIGHT == 3.0


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_states_every_parameter_that_could_move_it(name: str) -> None:
    preset = PRESETS[name].reconstruction
    assert set(preset) == {*STAGES, "reference", "parameters"} - {"relaxometry"}
    for stage, registry in STAGES.items():
        if stage in preset:
            method = registry[preset[stage]]
            params = method.make_parameters(preset["parameters"].get(method.name))
            free = set(asdict(params)) - set(preset["parameters"].get(method.name, {}))
            # radii in voxels stand for those in mm; MEDI's lambda for the regularisation, and its phase is the scan's
            told = {"largest_radius_mm", "step_mm"}
            told |= {"regularisation", "rad_per_ppm"} if method.name == "medi" else set()
            free -= told
            assert free <= {"csf_weight", "fluid_penalty"}, method.name  # of MEDI+0


def test_options_and_files_win_over_the_preset(folders: list[str], tmp_path: Path) -> None:
    plain = parse([*folders, "--preset", "consensus"]).settings
    assert plain.reconstruction == reconstruction("consensus")
    changed = parse([*folders, "--preset", "consensus", "--inversion", "tv", "--reference", "csf"]).settings
    assert changed.reconstruction == replace(plain.reconstruction, inversion="tv", reference="csf")
    assert parse([*folders]).settings.reconstruction == Reconstruction()

    written = write_toml(tmp_path / "qsmals.toml", changed)
    assert read_toml(written)["reconstruction"]["preset"] == "consensus"
    again = ["--config-file", str(written)]
    assert parse([*folders, *again]).settings.reconstruction == changed.reconstruction
    assert parse([*folders, *again, "--preset", "consensus"]).settings.reconstruction == plain.reconstruction
    short = tmp_path / "short.toml"
    short.write_text(
        "[reconstruction]\npreset = 'consensus'\n[reconstruction.parameters.v-sharp]\nerosion_voxels = 0\n"
    )
    found = parse([*folders, "--config-file", str(short)]).settings.reconstruction
    assert found.parameters["v-sharp"]["erosion_voxels"] == 0
    assert found.parameters["v-sharp"]["threshold"] == 0.05 and found.inversion == "nonlinear-weak-harmonic"


def test_an_unknown_preset_is_refused(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.toml").write_text("[reconstruction]\npreset = 'magic'\n")
    for words in (["--preset", "magic"], ["--config-file", str(tmp_path / "wrong.toml")]):
        with pytest.raises(SystemExit) as stop:
            parse([*folders, *words])
        assert stop.value.code == 2 and "magic" in capsys.readouterr().err


def test_the_preset_and_what_was_changed_are_told() -> None:
    recon = reconstruction("consensus")
    steps = step_parameters(Settings("in", "out", "work", reconstruction=recon), TE_S, 3.0)
    assert steps["preset"] == {"method": "consensus", "changes": []}
    inversion = dict(recon.parameters["nonlinear-weak-harmonic"], regularisation=1e-3)
    own = replace(recon, parameters=recon.parameters | {"nonlinear-weak-harmonic": inversion}, mask="quality")
    steps = step_parameters(Settings("in", "out", "work", reconstruction=own), TE_S, 3.0)
    assert steps["preset"]["changes"] == ["mask", "nonlinear-weak-harmonic.regularisation"]
    assert "preset" not in step_parameters(Settings("in", "out", "work"), TE_S, 3.0)
    markdown, bib = methods_text(
        list(chosen_methods(own, TE_S, 3.0).values()),
        acquisition={}, anatomy={}, versions={"qsmals": "1"}, preset=preset_words(own),
    )  # fmt: skip
    assert "reference pipeline of the QSM consensus paper" in markdown
    assert "set otherwise: mask and nonlinear-weak-harmonic.regularisation." in markdown
    assert "radii of 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1 voxels" in markdown
    assert bib.count("10.1002/mrm.30006") == 1


@pytest.mark.parametrize("name", PRESETS)
def test_the_kernels_of_a_preset_find_a_nucleus(name: str) -> None:
    grid = Grid((32, 32, 32), (1.5, 1.5, 1.5))
    head, brain = ellipsoid(grid.shape, 0.92), ellipsoid(grid.shape, 0.8)
    chi = np.zeros(grid.shape, np.float32)
    chi[18:22, 12:16, 14:18], chi[0:3, 10:20, 10:20] = 0.15, 2.0
    phase, magnitude = signal(
        dipole_field(chi, grid), list(TE_S), offset_rad=0.0, amplitude=head.astype(np.float32), r2star_hz=20.0,
        snr=100.0, rng=np.random.default_rng(0),
    )  # fmt: skip
    result, local_mask = run(name, phase, magnitude, head, brain, grid)
    nucleus = np.asarray(ndimage.binary_erosion(chi > 0.1)) & local_mask
    rest = local_mask & ~ndimage.binary_dilation(chi > 0.1, iterations=2)
    assert nucleus.sum() > 0
    assert 0.07 < result[nucleus].mean() - result[rest].mean() < 0.17
    assert not local_mask[brain & ~ndimage.binary_erosion(brain, iterations=1)].any()


def run(
    name: str, phase: Any, magnitude: Any, head: NDArray[np.bool_], brain: NDArray[np.bool_], grid: Grid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The stages of a preset one after the other, as the workflow connects them."""
    steps = chosen_methods(reconstruction(name), TE_S, B0_TESLA)

    def call(stage: str, *data: Any, **arguments: Any) -> Any:
        method, params = steps[stage]
        return method.function(*data, **arguments, params=params)

    common = {"magnitude": magnitude, "te_s": TE_S, "mask": head}
    phase = call("phase_offset", phase, **common, grid=grid, bipolar=False, brain_mask=brain).phase_rad
    unwrapped = call("unwrap", phase, **common)
    total = call("field", unwrapped.phase_rad, **common, b0_tesla=B0_TESLA)
    masks = call("mask", brain, quality=unwrapped.quality, magnitude=magnitude, grid=grid)
    weights = inverse_noise(total.noise_ppm, masks.brain)
    local = call("background", total.field_ppm, mask=masks.brain, grid=grid, weights=weights)
    weights = inverse_noise(total.noise_ppm, local.mask)
    found = call("inversion", local.field_ppm, mask=local.mask, grid=grid, weights=weights)
    return found.chi_ppm, local.mask if found.mask is None else found.mask
