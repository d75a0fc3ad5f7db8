"""Times one training step of torchvision's networks in PyTorch and prints one line of JSON; run by `cargo xtask peers`.

    train.py LAYOUT NETWORK SIDE BATCH THREADS SECONDS [cpu | bf16 | tf32]

LAYOUT is nchw, channels_last, or compiled, which is the latter through torch.compile. Without a place it is the CPU; on a GPU
in bf16 the forward pass runs under autocast, and in tf32 products and convolutions do. All layers are trained, batch normalisation by the batch's own statistics, cross-entropy
over 15 classes, AdamW in its fused form. Pictures are random and stay in memory.
"""

import json
import sys
import time

import torch
import torchvision

WARM_UP_STEPS = 2
# The first steps try algorithms.
GPU_WARM_UP_STEPS = 8
LEAST_STEPS = 3
CLASSES = 15


def main():
    layout, network, side, batch, threads, seconds, place = (*sys.argv[1:], "cpu")[:7]
    gpu = place != "cpu"
    device = "cuda" if gpu else "cpu"
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    if gpu:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    model = getattr(torchvision.models, network)(num_classes=CLASSES).train().to(device)
    pictures = torch.randn(int(batch), 3, int(side), int(side), device=device)
    if layout != "nchw":
        model = model.to(memory_format=torch.channels_last)
        pictures = pictures.to(memory_format=torch.channels_last)
    classes = torch.arange(int(batch), device=device) % CLASSES
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=place == "bf16"):
            return torch.nn.functional.cross_entropy(model(pictures), classes)

    if layout == "compiled":
        forward = torch.compile(forward)

    def step():
        optimiser.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        optimiser.step()
        return loss.item()

    losses = [step() for _ in range(GPU_WARM_UP_STEPS if gpu else WARM_UP_STEPS)]
    times = []
    end = time.perf_counter() + float(seconds)
    while len(times) < LEAST_STEPS or time.perf_counter() < end:
        start = time.perf_counter()
        losses.append(step())
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    line = {
        "version": f"PyTorch {torch.__version__}",
        "min_ms": times[0],
        "median_ms": times[len(times) // 2],
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": len(times),
        "peak_rss_mb": peak_mb(),
        "peak_gpu_mb": torch.cuda.max_memory_allocated() / 2**20 if gpu else None,
    }
    print(json.dumps(line))


def peak_mb():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
