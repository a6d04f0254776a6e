"""Multinomial logistic regression, by L-BFGS.

    minimise  - Σ_n log softmax(x_n W + b)[label_n]  +  penalty / 2 · |W|²

Dimension key: N rows, D numbers of a row, K labels.
"""

import torch
from torch import Tensor

_STEPS = 200
_SMALLEST = 1e-5
"""Largest part of the gradient, over the number of rows, at which the minimum is reached."""


def fit(x_ND: Tensor, label_N: Tensor, labels: int, penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """W (D, K) and b (K), float64; b has mean 0."""
    x_ND = x_ND.double()
    weight_DK = torch.zeros(x_ND.shape[1], labels, dtype=torch.float64, requires_grad=True)
    bias_K = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight_DK, bias_K],
        max_iter=_STEPS,
        tolerance_grad=_SMALLEST,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def cost() -> Tensor:
        solver.zero_grad()
        logits_NK = x_ND @ weight_DK + bias_K
        loss = torch.nn.functional.cross_entropy(logits_NK, label_N, reduction="sum")
        # Over the rows, so that the tolerance is that of a mean.
        mean: Tensor = (loss + penalty / 2 * weight_DK.square().sum()) / len(x_ND)
        mean.backward()
        return mean

    solver.step(cost)
    # The loss is the same for b and b + c.
    return weight_DK.detach(), bias_K.detach() - bias_K.detach().mean()


def probabilities(x_ND: Tensor, weight_DK: Tensor, bias_K: Tensor) -> Tensor:
    """softmax(x W + b), (N, K)."""
    return (x_ND.double() @ weight_DK + bias_K).softmax(-1)
