"""The choice among trials, by hand."""

import pytest

from torchrec_mtl.experiments.comparison.candidates import Figure
from torchrec_mtl.experiments.comparison.tuning import best, score

AUC, OTHER = Figure("ctr", "auc", "higher"), Figure("cvr", "auc", "higher")
ERROR = Figure("value", "nrmse", "lower", weight=0.5)


def metrics(ctr, cvr=0.0, value=0.0):
    return {"ctr": {"auc": ctr, "ne": 9.0}, "cvr": {"auc": cvr}, "value": {"nrmse": value}}


def test_the_score_is_the_mean_auc():
    assert score(metrics(0.6, 0.9), [AUC, OTHER]) == pytest.approx(0.75)


def test_lower_is_better_counts_against_and_weights_count():
    # (0.6 + 0.9 - 0.5 * 0.8) / 2.5
    assert score(metrics(0.6, 0.9, 0.8), [AUC, OTHER, ERROR]) == pytest.approx(0.44)


def test_a_model_of_one_task_is_judged_by_its_own_figure():
    assert score({"value": {"nrmse": 0.8}}, [AUC, OTHER, ERROR]) == pytest.approx(-0.8)
    with pytest.raises(ValueError, match=r"No figure is of the tasks \['gmv'\]. Found \['ctr auc'\]"):
        score({"gmv": {}}, [AUC])


def test_the_best_is_first_among_equals_and_never_nan():
    nan = float("nan")
    assert best([metrics(0.6), metrics(0.8), metrics(0.7)], [AUC]) == 1
    assert best([metrics(0.6), metrics(0.6)], [AUC]) == 0
    assert best([metrics(nan), metrics(0.1)], [AUC]) == 1
    assert best([metrics(0.5, value=0.3), metrics(0.5, value=0.2)], [AUC, ERROR]) == 1
