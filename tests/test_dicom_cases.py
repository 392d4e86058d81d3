"""DICOM files of the kinds that real archives contain are shown as the standard says."""

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from dicom_cases import CASES
from image_samples import decode


@pytest.mark.parametrize("name", CASES)
def test_gray_levels(name):
    data, expected = CASES[name]()
    decoded = decode(data, *expected.shape)
    assert np.abs(decoded.pixels - expected).max() <= 1.01, decoded.note
