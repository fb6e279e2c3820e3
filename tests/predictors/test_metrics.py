import pytest

from predictors import Estimate, PredictorError, score


def test_metrics_agree_with_a_hand_count():
    estimates = [Estimate(1.0, 0.9, 1.1), Estimate(2.0, 1.9, 2.1), Estimate(4.4, 4.2, 4.6), Estimate(6.0, 5.0, 9.0)]
    found = score(estimates, [1.0, 2.08, 4.05, 8.0])
    assert found.mape == pytest.approx(100 * (0 + 0.08 / 2.08 + 0.35 / 4.05 + 0.25) / 4)
    assert found.rmspe == pytest.approx(100 * ((0 + (0.08 / 2.08) ** 2 + (0.35 / 4.05) ** 2 + 0.0625) / 4) ** 0.5)
    assert (found.within_5, found.within_10) == (0.5, 0.75)
    assert (found.spearman, found.kendall, found.coverage) == (1.0, 1.0, 0.75)


def test_one_pair_is_no_sample():
    with pytest.raises(PredictorError, match="at least two"):
        score([Estimate(1.0, 1.0, 1.0)], [1.0])
