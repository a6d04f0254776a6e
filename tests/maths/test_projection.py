"""The projection against its own table written out, and against what theory promises."""

import numpy as np
import pytest
import torch

from domainwright.maths import projection
from domainwright.maths.projection import projected


def test_it_is_a_product_with_one_table_of_signs():
    table_PK = projected(torch.eye(70), 16, 3) * 4
    assert set(table_PK.flatten().tolist()) == {-1.0, 1.0}
    x_NP = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projected(x_NP, 16, 3), x_NP @ table_PK / 4, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(projected(x_NP[2:3], 16, 3), projected(x_NP, 16, 3)[2:3])
    assert not torch.equal(table_PK, projected(torch.eye(70), 16, 4) * 4)


def test_blocks_are_drawn_apart(monkeypatch):
    monkeypatch.setattr(projection, "_BLOCK_SIGNS", 16 * 7)
    table_PK = projected(torch.eye(70), 16, 3)
    assert len(table_PK.unique(dim=0)) == 70
    # 1,120 signs of mean 0: four standard deviations.
    assert abs(float(table_PK.sign().mean())) < 4 / 1120**0.5


def test_short_vectors_stay_as_they_are():
    x_NP = torch.randn(3, 8)
    assert torch.equal(projected(x_NP, 8, 0), x_NP)


@pytest.mark.parametrize("size", [256, 1024])
def test_inner_products_stay_within_the_stated_deviation(size):
    x_NP = torch.randn(40, 3000, generator=torch.Generator().manual_seed(1))
    x_NP = torch.nn.functional.normalize(x_NP + 1.0, dim=-1)
    y_NK = projected(x_NP, size, 7)
    error_NN = (y_NK @ y_NK.T - x_NP @ x_NP.T).numpy()
    deviation = np.sqrt((1 + (x_NP @ x_NP.T).numpy() ** 2) / size)
    other = ~np.eye(40, dtype=bool)
    # Five standard deviations over 780 pairs; their mean square is the variance.
    assert (np.abs(error_NN) < 5 * deviation)[other].all()
    assert np.mean((error_NN / deviation)[other] ** 2) < 1.6
