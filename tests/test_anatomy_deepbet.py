"""deepbet, by a stand-in for its package: the files that go in and come back, and the message where it is missing."""

import sys
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from qsmals.anatomy import deepbet
from qsmals.anatomy.compute import Compute, ants_session
from qsmals.anatomy.images import from_ants, to_ants

AFFINE = np.array([[-1.0, 0, 0, 9], [0, 0, 1.0, -4], [0, -2.0, 0, 5], [0, 0, 0, 1]])


def test_the_mask_lies_where_the_network_drew_it(tmp_path, monkeypatch):
    def run_bet(inputs, *, mask_paths, no_gpu, skip_broken):
        image = nib.load(inputs[0])
        mask = (np.asanyarray(image.dataobj) > 50).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, image.affine), mask_paths[0])
        assert no_gpu and not skip_broken

    stand_in = ModuleType("deepbet")
    stand_in.run_bet = run_bet  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepbet", stand_in)
    monkeypatch.setattr(deepbet, "deepbet_installed", lambda: True)
    data = np.random.default_rng(0).uniform(0, 100, (8, 9, 10)).astype(np.float32)
    with ants_session(Compute(tmp_path)):
        found, affine = from_ants(deepbet.deepbet_mask(to_ants(data, AFFINE), tmp_path))
    assert np.array_equal(found > 0, data > 50)
    assert np.allclose(affine, AFFINE)


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(deepbet, "deepbet_installed", lambda: False)
    with pytest.raises(ModuleNotFoundError, match=r"qsmals\[deepbet\]"):
        deepbet.deepbet_mask(None, tmp_path)
