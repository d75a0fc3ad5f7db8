"""Two AdamW steps of PyTorch, for the test in device/kernels/src/train/adamw.rs.

    python3 -m venv v && v/bin/pip install torch && v/bin/python adamw.py
"""

import torch

w = torch.tensor([[1.0, -2.0]], requires_grad=True)
b = torch.tensor([0.5], requires_grad=True)
optimiser = torch.optim.AdamW(
    [{"params": [w], "weight_decay": 0.01}, {"params": [b], "weight_decay": 0.0}], lr=0.1
)
for _ in range(2):
    optimiser.zero_grad()
    ((w**2).sum() + 3 * b.sum()).backward()
    optimiser.step()
print(torch.__version__, w.tolist(), b.tolist())
