"""Columns of a region table, and the limits that they share."""

MINIMUM_COVERAGE = 0.5
ADJACENT_MM = 5.0
MINIMUM_ADJACENT_VOXELS = 10

IDENTITY = ("index", "name", "hemisphere", "n_voxels", "volume_mm3", "coverage")
PERCENTILES = {"p05": 5, "p10": 10, "p25": 25, "p75": 75, "p90": 90, "p95": 95}
STATISTICS = (
    *("mean", "sd", "median", "mad", "skewness", "kurtosis", *PERCENTILES, "min", "max"),
    *("positive_mean", "positive_fraction", "negative_mean", "top10_mean", "eroded_mean", "wm_contrast"),
)
COLUMN_NAMES = IDENTITY + STATISTICS
