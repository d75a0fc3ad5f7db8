"""Three steps of SGD as `host/train/src/optimiser.rs` expects them. Versions: torch 2.14.1, CPU."""

import torch

parameter = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
optimiser = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
for gradient in ([1.0, -2.0], [0.5, 0.0], [-1.0, 3.0]):
    parameter.grad = torch.tensor(gradient)
    optimiser.step()
print([round(v, 7) for v in parameter.tolist()])
