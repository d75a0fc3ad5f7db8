"""Losses and their gradients as `host/train/src/objective.rs` expects them. Versions: torch 2.14.1, CPU."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, huber_loss

OUTPUTS = [[1.0, 2.0, 0.5], [-1.0, 0.0, 3.0]]
SOFT = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]])
VALUES = torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.25, 2.5]])
TAGS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
HARD = torch.tensor([0, 2])
WEIGHT = torch.tensor([2.0, 1.0, 0.5])

LOSSES = {
    "hard": lambda y: cross_entropy(y, HARD),
    "smooth": lambda y: cross_entropy(y, HARD, label_smoothing=0.1),
    "weighted": lambda y: cross_entropy(y, HARD, weight=WEIGHT),
    "weighted, smooth": lambda y: cross_entropy(y, HARD, weight=WEIGHT, label_smoothing=0.1),
    "soft": lambda y: cross_entropy(y, SOFT),
    "tags": lambda y: binary_cross_entropy_with_logits(y, TAGS),
    "huber 1": lambda y: huber_loss(y, VALUES, delta=1.0),
    "half of mse": lambda y: 0.5 * ((y - VALUES) ** 2).mean(),
}

for name, loss in LOSSES.items():
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    value = loss(outputs)
    value.backward()
    print(f"{name}: {value.item():.7f} {[round(g, 7) for g in outputs.grad.flatten().tolist()]}")
