"""Quality measures on arrays whose faults are known, their limits, and the verdict."""

import numpy as np
import pytest

from qsmals.qc import phase, regions, signal, susceptibility
from qsmals.qc.limits import LIMITS, with_overrides
from qsmals.qc.measures import MEASURES
from qsmals.qc.scan import ScanArrays, measure_scan
from qsmals.qc.verdict import Reason, Verdict, judge, worst_of
from qsmals.recon.dipole import dipole_field
from qsmals.recon.grid import Grid
from qsmals.reports.published import plausible_ranges

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


@pytest.mark.parametrize("echoes", [slice(None), slice(2, 3)], ids=["all echoes", "one echo"])
def test_jumps_of_a_turn_are_found_where_they_are(echoes):
    good, strength = unwrapped(FIELD_PPM), magnitude()
    clean = phase.residual_jumps(
        good, phase.echo_rate(good, strength, TE_S), BRAIN, te_s=TE_S, voxel_size_mm=GRID.voxel_size_mm
    )
    assert clean.share == 0 and clean.cluster_voxel is None
    vein = np.zeros(SHAPE, dtype=bool)
    vein[18:21, 12:30, 20:23] = True
    bad = good.copy()
    bad[..., echoes] += np.float32(2 * np.pi) * vein[..., None]
    found = phase.residual_jumps(
        bad, phase.echo_rate(bad, strength, TE_S), BRAIN, te_s=TE_S, voxel_size_mm=GRID.voxel_size_mm
    )
    assert found.cluster_ml > 0.5 and 0 < found.share < 0.2
    assert found.cluster_voxel == pytest.approx((19, 20.5, 21), abs=2)
    assert not found.voxels[~BRAIN].any()


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


def rows(sign: float = 1.0, coverage: float = 1.0, **ppb: float) -> list[dict]:
    values = IRON | ppb
    return [
        {"name": n, "hemisphere": h, "mean": sign * v / 1000, "coverage": coverage if "central" in n else 1.0}
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


def test_lost_regions_are_named():
    assert regions.least_coverage(rows(coverage=0.4)) == (0.4, "left precentral")
    assert regions.lost_regions(rows(coverage=0.4), 0.5) == [
        *("left precentral", "right precentral", "left paracentral", "right paracentral")
    ]
    assert regions.lost_regions(rows(), 0.5) == []


def arrays(**changed: np.ndarray) -> ScanArrays:
    phase_rad = unwrapped(FIELD_PPM)
    labels = np.zeros(SHAPE, dtype=np.int32)
    labels[ball(14)] = 1001
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
    registration = {name for name, m in MEASURES.items() if m.group == "Registration"}
    assert set(found.values) == MEASURES.keys() - registration
    assert judge(found.values, details=found.details, limits=SMALL_HEAD) == Verdict("pass")
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


def test_limits_are_overridden_one_by_one():
    limits = with_overrides({"snr_first": {"check": 70}, "rim_offset": {"check": "off", "fail": 1}})
    assert limits["snr_first"].fail == LIMITS["snr_first"].fail
    assert judge({"snr_first": 60.0}, limits=limits).word == "check"
    assert judge({"rim_offset": -5.0}, limits=limits).word == "fail"
    assert judge({"snr_first": float("nan")}, limits=limits).word == "pass"
    assert "beyond ±1" in judge({"rim_offset": -5.0}, limits=limits).reasons[0].text


def test_the_worst_verdict_counts_and_its_reasons_come_first():
    one = judge({}, others=[Reason("check", "Look.")])
    two = judge({"snr_first": 1.0})
    both = worst_of([one, two])
    assert both.word == "fail" and [r.level for r in both.reasons] == ["fail", "check"]
    assert worst_of([]) == Verdict("pass")
