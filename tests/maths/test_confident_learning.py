"""Confident learning against cleanlab's own results; the regression against its optimum."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from domainwright.maths.confident_learning import doubts
from domainwright.maths.logistic import fit, probabilities

FIXTURE = Path(__file__).parents[1] / "fixtures" / "confident_learning.json"
CASES = json.loads(FIXTURE.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("name", CASES)
def test_the_joint_and_the_suspects_are_those_of_cleanlab(name):
    case = CASES[name]
    given = np.array(case["given"])
    found = doubts(given, np.array(case["odds"]))
    assert found.threshold_K == pytest.approx(case["thresholds"])
    assert found.joint_KK.tolist() == case["joint"]
    assert found.suspects == case["suspects"] and found.suspects
    # The library rounds to whole rows.
    assert np.abs(found.calibrated_KK - np.array(case["calibrated"])).max() < 1
    assert found.calibrated_KK.sum(1) == pytest.approx(np.bincount(given))


def test_the_guess_is_the_likeliest_of_the_confident_labels():
    """The paper's own words, in loops."""
    rng = np.random.default_rng(3)
    odds = rng.dirichlet([0.5] * 4, 200)
    given = rng.integers(0, 4, 200)
    found = doubts(given, odds)
    least = [odds[given == k, k].mean() for k in range(4)]
    joint = np.zeros((4, 4), dtype=int)
    for n in range(200):
        sure = [k for k in range(4) if odds[n, k] >= least[k] - 1e-6]
        guess = max(sure, key=lambda k: odds[n, k]) if sure else -1
        assert found.guess_N[n] == guess
        if sure:
            joint[given[n], guess] += 1
    assert found.joint_KK.tolist() == joint.tolist()
    assert found.wrong_share == pytest.approx(
        1 - sum(joint[k, k] / joint[k].sum() * (given == k).sum() for k in range(4)) / 200
    )


def test_a_label_that_nobody_gave_is_never_guessed():
    odds = np.array([[0.1, 0.9, 0.0], [0.2, 0.1, 0.7], [0.9, 0.1, 0.0]])
    found = doubts(np.array([1, 0, 0]), odds)
    assert 2 not in found.guess_N and found.joint_KK[2].tolist() == [0, 0, 1]


def test_the_regression_ends_where_its_gradient_is_zero():
    rng = np.random.default_rng(0)
    x, label = rng.standard_normal((80, 5)), rng.integers(0, 3, 80)
    weight, bias = (t.numpy() for t in fit(torch.tensor(x), torch.tensor(label), 3, 0.5))
    logits = x @ weight + bias
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    apart = odds - np.eye(3)[label]
    # The solver stops at 1e-5 of a mean over 80 rows.
    assert np.abs(x.T @ apart + 0.5 * weight).max() < 2e-3
    assert np.abs(apart.sum(0)).max() < 2e-3
    assert bias.sum() == pytest.approx(0, abs=1e-9)
    own = probabilities(torch.tensor(x), torch.tensor(weight), torch.tensor(bias))
    assert own.numpy() == pytest.approx(odds)
