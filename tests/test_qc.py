"""Quality measures on arrays whose faults are known, their limits, and the verdict."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from qsmals.anatomy.atlases import ALS
from qsmals.qc import phase, regions, signal, susceptibility
from qsmals.qc.limits import LIMITS, with_overrides
from qsmals.qc.measures import MEASURES
from qsmals.qc.scan import ScanArrays, measure_scan
from qsmals.qc.verdict import Reason, Verdict, judge, judged_words, moved_words, worst_of
from qsmals.recon.dipole import dipole_field
from qsmals.recon.field.resolution import acquired_steps
from qsmals.recon.grid import Grid
from qsmals.reports.assess import Quality, assess_scan, assess_subject
from qsmals.reports.collect import Scan
from qsmals.reports.facts import ScanFacts
from qsmals.reports.published import plausible_ranges
from qsmals.reports.quality_page import quality_page
from tests.phase_phantom import zero_filled

SHAPE = (40, 44, 36)
TE_S = (0.005, 0.012, 0.019, 0.026)
GRID = Grid(SHAPE, (2.0, 2.0, 2.0))
B0_TESLA = 3.0


def ball(radius: float) -> np.ndarray:
    offset = [i - (n - 1) / 2 for i, n in zip(np.indices(SHAPE), SHAPE, strict=True)]
    return np.sqrt(sum(x**2 for x in offset)) <= radius


BRAIN = ball(15)


def magnitude(snr: float = 50.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    decay = 100 * np.exp(-np.asarray(TE_S) / 0.045)
    clean = np.where(BRAIN[..., None], decay, 0.0)
    noise = rng.normal(0, 100 / snr, (2, *clean.shape))
    return np.abs(clean + noise[0] + 1j * noise[1]).astype(np.float32)


def unwrapped(field_ppm: np.ndarray, noise_rad: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(1)
    rate = 2 * np.pi * 42.577478 * B0_TESLA * field_ppm
    echoes = [rate * te + rng.normal(0, noise_rad, SHAPE) for te in TE_S]
    return np.stack(echoes, axis=-1).astype(np.float32)


FIELD_PPM = np.linspace(-0.4, 0.4, SHAPE[0])[:, None, None] * np.ones(SHAPE)


def test_snr_is_that_of_the_noise_put_in():
    snr = signal.snr_of_echoes(magnitude(50.0), BRAIN)
    assert snr[0] == pytest.approx(50 * np.exp(-TE_S[0] / 0.045), rel=0.1)
    assert np.all(np.diff(snr) < 0)
    silent = magnitude()
    silent[..., 1] = 0
    assert signal.snr_of_echoes(silent, BRAIN)[1] == 0


def test_a_dead_echo_stands_out_of_the_decay():
    levels = signal.echo_levels(magnitude(), BRAIN)
    assert signal.echo_share(levels, TE_S) == pytest.approx(1.0, abs=0.02)
    levels[2] *= 0.05
    share = signal.echo_share(levels, TE_S)
    assert int(np.argmin(share)) == 2 and share[2] < 0.1
    levels[2] = 0
    assert signal.echo_share(levels, TE_S)[2] < 1e-3
    assert np.isnan(signal.echo_share(levels[:2], TE_S[:2])).all()


def test_phase_noise_is_that_put_in_and_knows_no_wraps():
    noise = signal.phase_noise(np.angle(np.exp(1j * unwrapped(FIELD_PPM, 0.1))).astype(np.float32), BRAIN)
    assert noise == pytest.approx(0.1, rel=0.1)
    random = np.random.default_rng(0).uniform(-np.pi, np.pi, (*SHAPE, 1)).astype(np.float32)
    assert signal.phase_noise(random, BRAIN)[0] == pytest.approx(0.82, abs=0.05)


def test_ghosts_are_seen_along_any_axis_and_blank_air_is_not_judged():
    head = ball(9)
    clean = magnitude()[..., 0] * (head | ~BRAIN)
    brain = ball(8)
    quiet, outliers = signal.ghosting(clean, brain, voxel_size_mm=GRID.voxel_size_mm)
    assert abs(quiet) < 0.01 and outliers < 0.01
    for axis in range(3):
        ghost = clean + 0.1 * np.roll(np.where(head, 100, 0), SHAPE[axis] // 2, axis=axis)
        share, more = signal.ghosting(ghost.astype(np.float32), brain, voxel_size_mm=GRID.voxel_size_mm)
        assert share > 0.02 and more > outliers
    blank = np.where(head, clean, 0).astype(np.float32)
    assert np.isnan(signal.ghosting(blank, brain, voxel_size_mm=GRID.voxel_size_mm)).all()


def test_phase_of_half_the_size_does_not_fill_its_circle():
    wrapped = np.angle(np.exp(1j * unwrapped(FIELD_PPM))).astype(np.float32)
    assert phase.phase_span(wrapped, BRAIN, te_s=TE_S, b0_tesla=3.0) == pytest.approx(1.0, abs=0.02)
    assert phase.phase_span(wrapped / 2, BRAIN, te_s=TE_S, b0_tesla=3.0) == pytest.approx(0.5, abs=0.02)
    assert np.isnan(phase.phase_span(wrapped, BRAIN, te_s=(0.002,), b0_tesla=1.5))


VEIN = np.zeros(SHAPE, dtype=bool)
VEIN[18:21, 12:30, 20:23] = True


def jumps(unwrapped_rad: np.ndarray, strength: np.ndarray, te_s=TE_S, noise: float = 0.0) -> phase.Jumps:
    return phase.residual_jumps(
        unwrapped_rad, strength, BRAIN, te_s=te_s, voxel_size_mm=GRID.voxel_size_mm, noise=noise
    )


def vein_alone(found: phase.Jumps) -> bool:
    """Whether the vein is found, and nothing farther from it than its neighbours."""
    near = np.zeros(SHAPE, dtype=bool)
    near[17:22, 11:31, 19:24] = True
    return bool(found.voxels[VEIN & BRAIN].all() and not found.voxels[~near].any())


@pytest.mark.parametrize("echoes", [slice(None), slice(2, 3)], ids=["all echoes", "one echo"])
def test_jumps_of_a_turn_are_found_where_they_are(echoes):
    good, strength = unwrapped(FIELD_PPM), magnitude()
    clean = jumps(good, strength)
    assert clean.share == 0 and clean.cluster_voxel is None
    bad = good.copy()
    bad[..., echoes] += np.float32(2 * np.pi) * VEIN[..., None]
    found = jumps(bad, strength)
    assert found.cluster_ml > 0.5 and 0 < found.share < 0.2
    assert found.cluster_voxel == pytest.approx((19, 20.5, 21), abs=2)
    assert not found.voxels[~BRAIN].any()


FEW_ECHOES = {"two": (0.005, 0.025), "three": (0.004, 0.012, 0.020), "three later": (0.006, 0.014, 0.022)}
FIRST_NOISE_RAD = 1 / 40


def few_echoes(te_s: tuple[float, ...], seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Unwrapped phase and magnitude with an R2* of 20/s and an SNR of 40 at the first echo."""
    rng = np.random.default_rng(seed)
    strength = np.stack([np.full(SHAPE, np.exp(-20.0 * (te - te_s[0]))) for te in te_s], -1)
    rate = 2 * np.pi * 42.577478 * B0_TESLA * FIELD_PPM
    noise = FIRST_NOISE_RAD / strength * rng.standard_normal((*SHAPE, len(te_s)))
    return (rate[..., None] * np.asarray(te_s) + noise).astype(np.float32), strength.astype(np.float32)


@pytest.mark.parametrize("turns", [1, -1])
@pytest.mark.parametrize("echoes", [slice(-1, None), slice(1, None), slice(0, 1)], ids=["last", "later", "first"])
@pytest.mark.parametrize("te_s", FEW_ECHOES.values(), ids=FEW_ECHOES)
def test_few_echoes_hide_no_jump(te_s, echoes, turns):
    good, strength = few_echoes(te_s)
    bad = good.copy()
    bad[..., echoes] += np.float32(2 * np.pi * turns) * VEIN[..., None]
    assert vein_alone(jumps(bad, strength, te_s, FIRST_NOISE_RAD))


@pytest.mark.parametrize("te_s", FEW_ECHOES.values(), ids=FEW_ECHOES)
def test_noise_makes_no_jumps_of_few_echoes(te_s):
    good, strength = few_echoes(te_s)
    assert jumps(good, strength, te_s, FIRST_NOISE_RAD).cluster_ml == 0
    weak = strength * np.where(np.indices(SHAPE)[2] % 2, 0.05, 1.0)[..., None].astype(np.float32)
    rng = np.random.default_rng(5)
    noisy = good + (FIRST_NOISE_RAD / weak * rng.standard_normal(good.shape)).astype(np.float32)
    assert jumps(good, weak, te_s).cluster_ml == 0
    found = jumps(noisy, weak, te_s, FIRST_NOISE_RAD)
    assert found.cluster_ml < 0.05, "phase that is noise tells nothing of jumps between echoes"


def test_a_turn_of_the_whole_last_echo_is_seen():
    for te_s in FEW_ECHOES.values():
        bad, strength = few_echoes(te_s)
        bad[..., -1] += np.float32(2 * np.pi)
        assert jumps(bad, strength, te_s, FIRST_NOISE_RAD).share > 0.99


def test_echoes_are_taken_in_the_order_of_their_times_and_nothing_is_no_jump():
    te_s = FEW_ECHOES["three"]
    bad, strength = few_echoes(te_s)
    bad[..., -1] += np.float32(2 * np.pi) * VEIN
    before = bad.copy()
    turned = jumps(bad[..., ::-1], strength[..., ::-1], te_s[::-1], FIRST_NOISE_RAD)
    assert np.array_equal(turned.voxels, jumps(bad, strength, te_s, FIRST_NOISE_RAD).voxels)
    assert np.array_equal(bad, before)
    strength[VEIN] = np.nan
    assert jumps(bad, strength, te_s, FIRST_NOISE_RAD).share == 0
    assert jumps(bad[..., :1], strength[..., :1], te_s[:1]).share == 0


def test_the_fit_residual_sees_echoes_that_disagree():
    good, strength = unwrapped(FIELD_PPM, 0.02), magnitude()
    residual, large = phase.fit_residual(good, strength, phase.echo_rate(good, strength, TE_S), BRAIN, te_s=TE_S)
    assert residual < 0.04 and large == 0
    bad = good.copy()
    bad[..., 1] += 1.5
    residual, large = phase.fit_residual(bad, strength, phase.echo_rate(bad, strength, TE_S), BRAIN, te_s=TE_S)
    assert residual > 0.4 and large > 0.5
    assert np.isnan(phase.fit_residual(good[..., :1], strength[..., :1], FIELD_PPM, BRAIN, te_s=TE_S[:1])).all()


def test_streaks_are_power_on_the_cone():
    rng = np.random.default_rng(0)
    chi = np.where(BRAIN, rng.normal(0, 0.02, SHAPE), 0).astype(np.float32)
    clean = susceptibility.streaking(chi, BRAIN, grid=GRID)
    assert clean == pytest.approx(1.0, abs=0.35)
    # thresholded division of a noisy field blows up what lies next to the cone
    from qsmals.recon.inversion.tkd import TkdParameters, tkd

    field = dipole_field(chi, GRID) + np.where(BRAIN, rng.normal(0, 0.02, SHAPE), 0).astype(np.float32)
    streaky = tkd(field, mask=BRAIN, grid=GRID, weights=None, params=TkdParameters(threshold=0.05)).chi_ppm
    assert susceptibility.streaking(streaky, BRAIN, grid=GRID) > 1.5 * clean
    assert np.isnan(susceptibility.streaking(chi, np.zeros(SHAPE, dtype=bool), grid=GRID))


def test_the_rim_is_compared_with_deep_cortex():
    depth = np.where(
        BRAIN, 15 - np.sqrt(sum((i - (n - 1) / 2) ** 2 for i, n in zip(np.indices(SHAPE), SHAPE, strict=True))), 0
    )
    chi = np.where(depth < 2, 0.05, 0.02).astype(np.float32)
    offset = susceptibility.rim_offset(chi, BRAIN, BRAIN, voxel_size_mm=GRID.voxel_size_mm)
    assert offset == pytest.approx(30, abs=1)
    assert np.isnan(susceptibility.rim_offset(chi, BRAIN, ~BRAIN, voxel_size_mm=GRID.voxel_size_mm))


IRON = {
    **{"pallidum": 110.0, "substantia_nigra": 100.0, "red_nucleus": 95.0, "putamen": 50.0, "caudate": 40.0},
    **{"thalamus": 5.0, "white_matter": -15.0, "precentral": 25.0, "paracentral": 24.0},
}


INDEX = {(region.name, region.hemisphere): region.index for region in ALS.regions}


def rows(sign: float = 1.0, coverage: float = 1.0, **ppb: float) -> list[dict]:
    values = IRON | ppb
    return [
        {"index": INDEX[n, h], "name": n, "hemisphere": h, "mean": sign * v / 1000}
        | {"coverage": coverage if "central" in n else 1.0}
        for n, v in values.items()
        for h in ("L", "R", "B")
    ]


def test_regions_stand_in_the_order_of_their_iron_or_do_not():
    assert regions.order_share(rows()) == 1.0
    assert regions.order_share(rows(putamen=38.0)) == 1.0, "putamen and caudate may be nearly equal"
    assert regions.order_share(rows(-1.0)) == 0.0
    assert regions.order_share(rows(pallidum=20.0)) < 0.85
    assert np.isnan(regions.order_share([]))


def test_contrast_symmetry_and_plausibility():
    assert regions.contrast(rows(), "pallidum", 5.0) == pytest.approx(25)
    assert np.isnan(regions.contrast(rows(), "dentate", 5.0)) and np.isnan(regions.contrast(rows(), "pallidum", 0.0))
    tilted = [r | {"mean": 0.15} if (r["name"], r["hemisphere"]) == ("pallidum", "L") else r for r in rows()]
    value, place = regions.asymmetry(tilted)
    assert value == pytest.approx(40) and place == "pallidum"
    assert regions.implausible(rows(), plausible_ranges()) == []
    strange = regions.implausible(rows(pallidum=-60.0), plausible_ranges())
    assert strange == ["left pallidum −60 ppb", "right pallidum −60 ppb"]


def test_cortex_far_from_the_rest_is_named():
    cortex = {"cuneus": 12.0, "insula": 9.0, "fusiform": 8.0, "bankssts": 10.0, "precentral": 44.0}
    assert regions.unlike_cortex(rows(**cortex)) == [], "motor cortex has limits of its own"
    found = regions.unlike_cortex(rows(**cortex, frontal_pole=-22.0))
    assert found == ["left frontal pole −22 ppb", "right frontal pole −22 ppb"]
    assert regions.unlike_cortex([]) == []


def test_lost_regions_are_named():
    assert regions.least_coverage(rows(coverage=0.4)) == (0.4, "left precentral")
    assert regions.lost_regions(rows(coverage=0.4), 0.5) == [
        *("left precentral", "right precentral", "left paracentral", "right paracentral")
    ]
    assert regions.lost_regions(rows(), 0.5) == []


def arrays(**changed: np.ndarray) -> ScanArrays:
    phase_rad = unwrapped(FIELD_PPM)
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[ball(14)] = 1017
    labels[ball(9)] = 2
    labels[18:22, 30:33, 18:22] = 1024
    rng = np.random.default_rng(2)
    values = {
        "magnitude": magnitude(),
        "phase_rad": np.angle(np.exp(1j * phase_rad)).astype(np.float32),
        "unwrapped_rad": phase_rad,
        "noise_ppm": np.where(BRAIN, 0.001, np.inf).astype(np.float32),
        "chi_ppm": np.where(BRAIN, rng.normal(0, 0.006, SHAPE), 0).astype(np.float32),
        "brain": BRAIN,
        "measured": BRAIN,
        "white_matter": ball(9),
        "labels": labels,
        "expected": labels,
    }
    return ScanArrays(**(values | changed))


SMALL_HEAD = with_overrides({"brain_volume": {"check": "off", "fail": "off"}})


def measured(scan: ScanArrays, table: list[dict] | None = None):
    return measure_scan(scan, table or rows(), te_s=TE_S, b0_tesla=B0_TESLA, grid=GRID, ranges_ppb=plausible_ranges())


def test_a_clean_scan_passes_and_has_every_measure():
    found = measured(arrays())
    registration = {name: m.title for name, m in MEASURES.items() if m.group == "Registration"}
    assert set(found.values) == MEASURES.keys() - registration.keys()
    verdict = judge(found.values, details=found.details, limits=SMALL_HEAD)
    assert verdict == Verdict("pass", not_judged=tuple(registration.values()))
    assert len(found.echoes["snr"]) == len(TE_S)


def test_a_mask_without_the_motor_cortex_is_found_though_its_labels_follow_it():
    small = BRAIN & (np.indices(SHAPE)[1] < 24)
    found = measured(arrays(brain=small, measured=small))
    assert found.values["motor_in_mask"] < 50
    verdict = judge(found.values, details=found.details, limits=SMALL_HEAD)
    assert verdict.word == "fail" and any("motor cortex" in r.text for r in verdict.reasons)


def test_a_turned_sign_is_named():
    found = measured(arrays(), rows(-1.0))
    verdict = judge(found.values, details=found.details, limits=SMALL_HEAD)
    assert verdict.word == "fail" and any("phase sign" in r.text for r in verdict.reasons)


def test_noise_is_named():
    found = measured(arrays(magnitude=magnitude(4.0), noise_ppm=np.full(SHAPE, 0.02, np.float32)))
    verdict = judge(found.values, details=found.details, limits=SMALL_HEAD)
    assert verdict.word == "fail" and {"snr_first", "field_noise"} <= {r.measure for r in verdict.reasons}


def test_every_limit_belongs_to_a_measure_and_is_stricter_to_check_than_to_fail():
    assert LIMITS.keys() <= MEASURES.keys()
    for name, limit in LIMITS.items():
        assert name == limit.measure and limit.meaning and limit.origin
        if limit.check is not None and limit.fail is not None:
            assert limit.check > limit.fail if limit.bad == "below" else limit.check < limit.fail, name


PLANTED = Path(__file__).parents[1] / "docs" / "planted_faults.md"


def planted() -> dict[str, dict[str, str]]:
    """Rows of the table of measures in docs/planted_faults.md, by title."""
    text = PLANTED.read_text()
    lines = [line.strip("| ").split(" | ") for line in text[text.index("## Measures") :].splitlines() if "|" in line]
    return {cells[0].split(",")[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


@pytest.mark.parametrize("name", LIMITS)
def test_what_is_said_of_a_limit_is_what_was_measured(name):
    limit, row = LIMITS[name], planted()[MEASURES[name].title]
    measured = [float(v) for column in ("ten clean", "other clean") for v in row[column].split(" to ")]
    slack = 0.25 * (limit.clean[1] - limit.clean[0]) + 10.0 ** -MEASURES[name].digits
    assert limit.clean[0] - slack <= min(measured) and max(measured) <= limit.clean[1] + slack
    bold = {column for column, cell in row.items() if cell.startswith("**")}
    assert set(limit.faults) <= bold and bool(limit.faults) == bool(bold)


def test_the_page_says_of_each_limit_whether_a_fault_exercises_it():
    page = quality_page()
    assert page.count("exercised by") == len(LIMITS)
    assert page.count("not exercised by a planted fault") == sum(not limit.faults for limit in LIMITS.values())
    origins = [limit.origin for limit in LIMITS.values()]
    assert len(set(origins)) > 20 and "with a margin (benchmarks" not in page
    assert "clean simulated heads have 4.4 ppb to 5.8 ppb; far above" in page


def test_limits_are_overridden_one_by_one():
    limits = with_overrides({"snr_first": {"check": 70}, "rim_offset": {"check": "off", "fail": 1}})
    assert limits["snr_first"].fail == LIMITS["snr_first"].fail
    assert judge({"snr_first": 60.0}, limits=limits).word == "check"
    assert judge({"rim_offset": -5.0}, limits=limits).word == "fail"
    assert judge({"snr_first": float("nan")}, limits=limits).word == "pass"
    assert "beyond ±1" in judge({"rim_offset": -5.0}, limits=limits).reasons[0].text


def test_a_limit_that_was_moved_says_who_set_it():
    given = {"snr_first": {"check": 20}, "rim_offset": {"check": "off", "fail": "off"}, "asymmetry": {"check": 30}}
    limits = with_overrides(given)
    assert limits["snr_first"].origin == (
        "set by the user's file (--qc-thresholds) in place of check below 15, fail below 8"
    )
    assert limits["rim_offset"].origin.endswith("in place of check beyond ±25, fail beyond ±60")
    assert limits["asymmetry"] == LIMITS["asymmetry"], "the same number is no other limit"
    rim = MEASURES["rim_offset"].title
    assert moved_words(limits) == (
        f"The limits of 2 measures were set by --qc-thresholds: SNR of the first echo, {rim} (off)."
    )
    assert moved_words(LIMITS) == ""


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("snr_first", {"check": 5}, "to check below 5 is laxer than to fail below 8"),
        ("snr_first", {"fail": 20}, "to check below 15 is laxer than to fail below 20"),
        ("phase_noise", {"check": 0.7}, "to check above 0.7 is laxer than to fail above 0.6"),
        ("rim_offset", {"fail": 20}, "to check beyond ±25 is laxer than to fail beyond ±20"),
    ],
)
def test_a_check_laxer_than_the_fail_is_refused(name, values, words):
    with pytest.raises(ValueError, match=f"{name}: {re.escape(words)}.*give both"):
        with_overrides({name: values})
    other = {"check": "fail", "fail": "check"}[next(iter(values))]
    assert with_overrides({name: values | {other: "off"}})[name].replaced is not None, "where one is off, none is laxer"


def test_a_limit_is_a_finite_number():
    with pytest.raises(ValueError, match=r"snr_first.check is a number or 'off', not nan"):
        with_overrides({"snr_first": {"check": float("nan")}})


def test_measures_without_a_value_are_listed_as_not_judged():
    limits = {name: LIMITS[name] for name in ("snr_first", "phase_noise", "fit_residual")}
    verdict = judge({"snr_first": 40.0, "fit_residual": float("nan")}, limits=limits)
    assert verdict.word == "pass"
    assert verdict.not_judged == ("Phase noise of the noisiest echo", "Residual of the field fit")
    assert judged_words(verdict, limits).startswith("1 of 3 measures apply; not judged: Phase noise")
    off = with_overrides({"fit_residual": {"check": "off", "fail": "off"}})
    assert "Residual of the field fit" not in judge({}, limits=off).not_judged
    complete = judge(dict.fromkeys(limits, 0.1) | {"snr_first": 40.0}, limits=limits)
    assert complete.not_judged == () and judged_words(complete, limits) == "All 3 measures apply."
    assert worst_of([verdict, complete]).not_judged == verdict.not_judged


def scan(values: dict[str, float], *detected: dict) -> Scan:
    facts = ScanFacts("sub-01", detected=detected)
    return Scan("sub-01", facts, {"chi": Path("chi.nii.gz")}, (), (), Quality(values))


SIGN = {"what": "phase sign", "found": "stored phase grows with the field", "evidence": "correlation +0.60"}
UNTOLD = (
    (),
    (SIGN | {"warning": True},),
    (SIGN | {"evidence": "correlation -0.03; set by --phase-sign", "warning": False},),
    (SIGN | {"confident": False},),
)


@pytest.mark.parametrize("detected", UNTOLD, ids=["nothing", "too weak", "asked for", "not confident"])
def test_a_map_whose_sign_nothing_tells_does_not_pass(detected):
    verdict = assess_scan(scan({"contrast_pallidum": float("nan"), "snr_first": 40.0}, *detected))
    assert verdict.word == "check" and any("sign of the map could not be judged" in r.text for r in verdict.reasons)
    assert {"Contrast of the pallidum", "Regions in the order of their iron"} <= set(verdict.not_judged)


@pytest.mark.parametrize(
    ("values", "detected"),
    [
        ({"contrast_pallidum": 20.0}, ()),
        ({"region_order": 100.0}, UNTOLD[1]),
        ({}, (SIGN,)),
        ({}, (SIGN | {"confident": True, "warning": True},)),
    ],
)
def test_one_witness_of_the_sign_is_enough(values, detected):
    assert not any("could not be judged" in r.text for r in assess_scan(scan(values, *detected)).reasons)


def test_what_was_not_judged_is_told_scan_by_scan():
    one, two = scan({"region_order": 100.0}, SIGN), scan(dict.fromkeys(LIMITS, 0.0), SIGN)
    subject, of_scans = assess_subject([one, Scan("sub-01_run-2", two.facts, two.files, (), (), two.quality)], {})
    assert of_scans["sub-01_run-2"].not_judged == ()
    assert "sub-01: SNR of the first echo" in subject.not_judged


def test_an_atlas_with_other_names_leaves_cortex_and_motor_cortex_unjudged():
    other = [row | {"name": f"area {row['index']}"} for row in rows()]
    values = measured(arrays(), other).values
    for name in ("motor_in_mask", "motor_coverage", "rim_offset", "region_order", "contrast_pallidum"):
        assert np.isnan(values[name]), name
        assert np.isfinite(measured(arrays()).values[name])


def test_cortex_is_what_the_table_names_and_numbers_as_freesurfer_does():
    table = [{"index": r.index, "name": r.name, "hemisphere": r.hemisphere} for r in ALS.regions]
    cortex = {r.index for r in ALS.regions if 1000 < r.index < 1036 or 2000 < r.index < 2036}
    assert set(regions.cortical_labels(table)) == cortex and len(cortex) == 68
    assert set(regions.motor_labels(table).values()) == {1024, 2024, 1017, 2017}
    moved = [
        {"index": 7, "name": "precentral", "hemisphere": "R"},
        {"index": 1024, "name": "insula", "hemisphere": "L"},
    ]
    assert regions.motor_labels(moved) == {"right precentral": 7} and regions.cortical_labels(moved) == []


def test_the_worst_verdict_counts_and_its_reasons_come_first():
    one = judge({}, others=[Reason("check", "Look.")])
    two = judge({"snr_first": 1.0})
    both = worst_of([one, two])
    assert both.word == "fail" and [r.level for r in both.reasons] == ["fail", "check"]
    assert worst_of([]) == Verdict("pass")


def three_echoes(dead: int, phase_too: bool = True) -> dict[str, np.ndarray]:
    """Three equally spaced echoes of which one is dead."""
    strength, phase_rad = magnitude()[..., :3], np.angle(np.exp(1j * unwrapped(FIELD_PPM)))[..., :3].astype(np.float32)
    strength[..., dead] *= 0.05
    if phase_too:
        phase_rad[..., dead] = np.random.default_rng(6).uniform(-np.pi, np.pi, SHAPE)
    return {"magnitude": strength, "phase_rad": phase_rad, "unwrapped_rad": phase_rad}


@pytest.mark.parametrize("dead", [0, 2])
@pytest.mark.parametrize("te_s", [(0.005, 0.012, 0.019), (0.005, 0.008, 0.019)], ids=["equal", "unequal"])
def test_a_dead_echo_of_three_is_named_by_its_noise(dead, te_s):
    table, ranges = rows(), plausible_ranges()
    found = measure_scan(
        arrays(**three_echoes(dead)), table, te_s=te_s, b0_tesla=B0_TESLA, grid=GRID, ranges_ppb=ranges
    )
    assert found.details["echo_signal"] == f"echo {dead + 1}" and found.values["echo_signal"] < 0.3


def test_a_weak_echo_of_three_that_nothing_else_tells_is_one_of_two():
    ranges = plausible_ranges()
    dim = arrays(**three_echoes(0, phase_too=False))
    found = measure_scan(dim, rows(), te_s=TE_S[:3], b0_tesla=B0_TESLA, grid=GRID, ranges_ppb=ranges)
    assert found.details["echo_signal"] == "echo 1 or 3"


def complex_brain(snr: float) -> np.ndarray:
    """A head of cells, with edges and a smooth field, and complex noise of 1/snr of its signal, one echo."""
    rng = np.random.default_rng(7)
    centres = rng.uniform(0, 40, (150, 3))
    cell = cKDTree(centres).query(np.stack(np.indices(SHAPE), -1))[1]
    inside = ball(17) * rng.uniform(0.9, 1.1, 150)[cell]
    noise = rng.normal(0, 1 / snr, (2, *SHAPE))
    return 100 * (inside * np.exp(1j * 20 * FIELD_PPM) + noise[0] + 1j * noise[1])


def core(shape: tuple[int, int, int]) -> np.ndarray:
    """The inside of that head on a finer grid of the same field of view."""
    offset = [40 * (i / n - 0.5) * (m / 40) for i, n, m in zip(np.indices(shape), shape, SHAPE, strict=True)]
    return np.sqrt(sum(x**2 for x in offset)) <= 14


INTERPOLATED = {
    "twice in plane": ((80, 88, 36), (2, 2, 1), (0.95, 1.05)),
    "half again": ((60, 66, 36), (2, 2, 1), (0.65, 1.0)),
    "slices": ((40, 44, 72), (1, 1, 2), (0.95, 1.05)),
}


@pytest.mark.parametrize(("shape", "steps", "near"), INTERPOLATED.values(), ids=INTERPOLATED)
def test_noise_of_interpolated_images_is_that_of_measured_voxels(shape, steps, near):
    image = complex_brain(40.0)
    larger, brain = zero_filled(image, shape), core(shape)
    size = tuple(2.0 * old / new for old, new in zip(SHAPE, shape, strict=True))
    strength, angle = np.abs(larger).astype(np.float32), np.angle(larger).astype(np.float32)
    assert acquired_steps(strength, angle, brain, voxel_size_mm=size) == steps
    thin = tuple(slice(None, None, step) for step in steps)
    truth = signal.snr_of_echoes(np.abs(image).astype(np.float32)[..., None], core(SHAPE))[0]
    snr = signal.snr_of_echoes(strength[thin][..., None], brain[thin])[0]
    assert near[0] < snr / truth < near[1]
    assert signal.snr_of_echoes(strength[..., None], brain)[0] > 1.3 * truth, "as stored it looks better"


@pytest.mark.parametrize("snr", [5.0, 40.0, 150.0])
def test_images_as_measured_are_not_taken_for_interpolated(snr):
    image = complex_brain(snr)
    strength, angle = np.abs(image).astype(np.float32), np.angle(image).astype(np.float32)
    assert acquired_steps(strength, angle, BRAIN, voxel_size_mm=GRID.voxel_size_mm) == (1, 1, 1)
    flat = np.s_[:, :, 18:19]
    assert acquired_steps(strength[flat], angle[flat], BRAIN[flat], voxel_size_mm=(2, 2, 2)) == (1, 1, 1)
    assert acquired_steps(strength, angle, np.zeros_like(BRAIN), voxel_size_mm=(2, 2, 2)) == (1, 1, 1)


def test_measures_say_that_images_were_interpolated():
    larger, brain = zero_filled(complex_brain(40.0), (80, 88, 36)), core((80, 88, 36))
    strength, angle = (f(larger).astype(np.float32)[..., None] for f in (np.abs, np.angle))
    labels = np.where(brain, 2, 0).astype(np.int32)
    noise = np.where(brain, 0.001, np.inf).astype(np.float32)
    one = ScanArrays(strength, angle, angle, noise, angle[..., 0] * 0, brain, brain, brain, labels)
    grid = Grid(brain.shape, (1.0, 1.0, 2.0))
    found = measure_scan(one, rows(), te_s=(0.02,), b0_tesla=B0_TESLA, grid=grid, ranges_ppb=plausible_ranges())
    assert found.details["snr_first"] == found.details["snr_last"] == "interpolated images: one voxel of 2 × 2 × 1"
    assert found.details["phase_noise"].endswith("one voxel of 2 × 2 × 1")
    assert found.values["snr_first"] == pytest.approx(40, rel=0.2)
    assert found.values["field_noise"] == pytest.approx(1.0) and "field_noise" not in found.details
    assert re.search("interpolated", MEASURES["snr_first"].definition)
    assert "snr_first" not in measured(arrays()).details
