"""Rounding with a learned step and its gradients as `host/train/src/net/quantized/tests.rs` expects them. Versions: torch
2.14.1, CPU."""

import torch

VALUES = [-1.3, -0.52, -0.26, -0.06, 0.0, 0.04, 0.31, 0.76, 1.0, 24.3, 24.9, 25.0, 31.0]
GRADIENT = [0.5, -1.0, 0.25, 2.0, 1.0, -0.5, 0.125, 3.0, -1.5, 0.75, 1.25, -2.0, 0.375]

for scale, zero_point in [(0.1, 5), (0.098, 0), (0.25, 128), (0.1, 255)]:
    x = torch.tensor(VALUES, requires_grad=True)
    s = torch.tensor([scale], requires_grad=True)
    z = torch.tensor([float(zero_point)])
    factor = 1.0 / (len(VALUES) * 255) ** 0.5
    y = torch._fake_quantize_learnable_per_tensor_affine(x, s, z, 0, 255, factor)
    y.backward(torch.tensor(GRADIENT))
    print(f"({scale}, {zero_point}): y {[round(v, 6) for v in y.tolist()]}")
    print(f"  dx {x.grad.tolist()} ds {s.grad.item():.7f}")
