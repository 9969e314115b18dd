import numpy as np

from product_mil.inference.calibration_error import bins_of, expected_calibration_error


def test_the_ends_of_the_bins() -> None:
    assert bins_of(np.asarray([0.0, 0.0666, 0.0667, 0.934, 1.0])).tolist() == [0, 0, 1, 14, 14]


def test_calibration_error_by_hand() -> None:
    """Bins of 1/15: [0.0667, 0.1333) holds two, the last one three."""
    confidence = np.asarray([0.10, 0.12, 0.95, 0.99, 1.0])
    correct = np.asarray([True, False, True, True, False])
    low = abs((0.10 + 0.12) / 2 - 1 / 2) * 2 / 5
    high = abs((0.95 + 0.99 + 1.0) / 3 - 2 / 3) * 3 / 5
    np.testing.assert_allclose(expected_calibration_error(confidence, correct), low + high)
    assert expected_calibration_error(np.asarray([1.0, 1.0]), np.asarray([True, True])) == 0
