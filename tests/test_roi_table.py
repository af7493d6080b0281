"""The region table as text."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsmals.roi.columns import COLUMN_NAMES
from qsmals.roi.statistics import Region, region_statistics
from qsmals.roi.table import COLUMNS, column_dictionary, read_table, table_text

CONTRACT = (
    "index name hemisphere n_voxels volume_mm3 coverage mean sd median mad skewness kurtosis p05 p10 p25 p75 p90 p95 "
    "min max positive_mean positive_fraction negative_mean top10_mean eroded_mean wm_contrast"
)


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (8, 9, 10))
    regions = [Region(i, f"region_{i}", "LRB"[i % 3], (i,)) for i in (1, 2, 3, 9)]
    return region_statistics(
        rng.normal(0, 0.1, labels.shape).astype(np.float32),
        labels,
        measured=labels > 0,
        regions=regions,
        voxel_size_mm=(1, 1, 2),
    )


def test_columns_are_the_contracts(table):
    assert " ".join(COLUMN_NAMES) == CONTRACT
    assert table_text(table).splitlines()[0].split("\t") == CONTRACT.split()


def test_text_comes_back_as_it_was(table):
    back = read_table(table_text(table))
    assert list(back) == list(table)
    for name, column in table.items():
        if name in ("name", "hemisphere"):
            assert back[name].tolist() == column.tolist()
        else:
            np.testing.assert_allclose(back[name], column, rtol=1e-7)
    assert back["index"].dtype == back["n_voxels"].dtype == np.int64


def test_pandas_reads_it(table):
    frame = pd.read_csv(io.StringIO(table_text(table)), sep="\t", na_values="n/a")
    np.testing.assert_allclose(frame["mean"], table["mean"], rtol=1e-7)
    assert frame.loc[3, ["mean", "coverage"]].isna().all() and frame.loc[3, "n_voxels"] == 0


def test_missing_is_written_na(table):
    last = table_text(table).splitlines()[-1].split("\t")
    assert last[:6] == ["9", "region_9", "L", "0", "0", "n/a"] and set(last[6:]) == {"n/a"}


def test_every_column_is_described_with_the_maps_unit():
    dictionary = column_dictionary("1/s")
    assert tuple(dictionary) == COLUMN_NAMES == tuple(COLUMNS)
    assert all(entry["Description"] for entry in dictionary.values())
    assert dictionary["mean"]["Units"] == dictionary["wm_contrast"]["Units"] == "1/s"
    assert dictionary["volume_mm3"]["Units"] == "mm^3" and dictionary["skewness"]["Units"] == "1"
    assert "Units" not in dictionary["name"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=False, allow_subnormal=False), max_size=8))
def test_every_float32_survives(values):
    column = np.array(values, np.float32)
    back = read_table(table_text({"mean": column}))["mean"]
    np.testing.assert_allclose(back, column, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"name": ["a"], "mean": [1.0, 2.0]}, "one length"), ({"name": ["a\tb"]}, "no tab"), ({"name": ["a\n"]}, "tab")],
)
def test_a_table_that_cannot_be_written_is_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        table_text(columns)


@pytest.mark.parametrize(
    ("text", "message"),
    [("name\tmean\na\n", "line 2"), ("mean\nabc\n", "column mean"), ("n_voxels\n1.5\n", "column n_voxels")],
)
def test_a_broken_table_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_table(text)
