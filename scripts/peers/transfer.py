"""Transfer learning as a PyTorch user writes it, on the sets and weights that graft is measured with; prints one line of JSON.

    transfer.py RECIPE SET WEIGHTS SEED EPOCHS THREADS [DEVICE]

RECIPE: `head` trains a linear classifier on the frozen backbone for EPOCHS passes over varied pictures; `full` trains all
layers, batch normalisation frozen; `scratch` all layers from random weights; `logistic` fits scikit-learn's
LogisticRegressionCV and `ridge` its RidgeCV (of the column `severity` in SET/labels.csv) on features of the frozen backbone; `features` times these, from JPEG files of SET/train.
SET has the folders train and test with one folder for each class. WEIGHTS are of MobileNetV2 1.0 in safetensors, trained with
TensorFlow's padding on pictures in [-1, 1]. AdamW at 1e-3, 3e-4 for `full`, 2e-3 for `scratch`, with a warm-up and a cosine, batches of 16, label smoothing 0.1,
random square crops of 65 to 100 %, mirrored at random, slight changes of light; DataLoader with one worker a thread.
DEVICE is cpu or cuda; with the latter pictures are decoded once, and products are TF32.
"""

import csv
import functools
import json
import math
import pathlib
import sys
import time

import numpy
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import v2

SIDE, BATCH = 224, 16
RATES = {"head": 1e-3, "full": 3e-4, "scratch": 2e-3}
DEVICE = torch.device(sys.argv[7] if len(sys.argv) > 7 else "cpu")


def same_padding(model):
    """Pads strided convolutions as TensorFlow does: the odd pixel after."""
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.stride == (2, 2):
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _, x: torch.nn.functional.pad(x[0], (0, 1, 0, 1)))


def network(weights, classes):
    model = torchvision.models.mobilenet_v2(num_classes=classes, dropout=0.0)
    same_padding(model)
    if weights is not None:
        found = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
        missing, extra = model.load_state_dict(found, strict=False)
        assert not extra and all(k.startswith("classifier") or k.endswith("num_batches_tracked") for k in missing), missing
    torch.nn.init.zeros_(model.classifier[1].weight)
    torch.nn.init.zeros_(model.classifier[1].bias)
    return model.to(DEVICE, memory_format=torch.channels_last)


class Square:
    """A random square of 65 to 100 % of the shorter side."""

    def __call__(self, picture):
        shorter = min(picture.size)
        side = max(1, round(shorter * (0.65 + 0.35 * torch.rand(()).item())))
        left, top = (int(torch.randint(0, room - side + 1, ()).item()) for room in picture.size)
        return picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.BILINEAR)


def transforms():
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    varied = [Square(), v2.RandomHorizontalFlip(), v2.ColorJitter(0.15, 0.15, 0.15), *end]
    plain = [v2.Resize(256), v2.CenterCrop(SIDE), *end]
    return v2.Compose(varied), v2.Compose(plain)


def loader(folder, transform, threads, shuffle):
    data = torchvision.datasets.ImageFolder(folder, transform)
    if DEVICE.type == "cuda":
        data.loader = functools.cache(data.loader)
        for file, _ in data.samples:
            data.loader(file)
    return torch.utils.data.DataLoader(data, BATCH, shuffle=shuffle, num_workers=threads, persistent_workers=True)


def fit(model, batches, epochs, recipe):
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATES[recipe], fused=True)
    total = epochs * len(batches)
    warm_up = min(max(total // 10, 1), len(batches))

    def factor(step):
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(total - warm_up, 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    model.train(recipe == "scratch")
    for _ in range(epochs):
        for pictures, classes in batches:
            pictures, classes = pictures.to(DEVICE, memory_format=torch.channels_last), classes.to(DEVICE)
            if recipe == "head":
                with torch.no_grad():
                    features = model.features(pictures).mean((2, 3))
                logits = model.classifier(features)
            else:
                logits = model(pictures)
            loss = torch.nn.functional.cross_entropy(logits, classes, label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def features(model, folder, threads, plain):
    model.eval()
    rows, classes, batches = [], [], loader(folder, plain, threads, False)
    for pictures, of in batches:
        rows.append(model.features(pictures.to(DEVICE, memory_format=torch.channels_last)).mean((2, 3)).cpu().numpy())
        classes.append(of.numpy())
    return numpy.concatenate(rows), numpy.concatenate(classes), [p for p, _ in batches.dataset.samples]


def by_scikit_learn(recipe, model, root, threads, plain):
    from sklearn.linear_model import LogisticRegressionCV, RidgeCV
    from sklearn.metrics import f1_score, mean_absolute_error, r2_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y, files), (x_test, y_test, test_files) = (features(model, root / part, threads, plain) for part in ("train", "test"))
    strengths = numpy.logspace(-4, 0, 9)
    if recipe == "logistic":
        head = LogisticRegressionCV(Cs=strengths, cv=3, max_iter=2000, use_legacy_attributes=False)
        found = make_pipeline(StandardScaler(), head).fit(x, y).predict(x_test)
        return {"top1": float((found == y_test).mean()), "macro_f1": f1_score(y_test, found, average="macro")}
    with open(root / "labels.csv", encoding="utf-8") as text:
        severity = {str(root / row["file"]): float(row["severity"]) for row in csv.DictReader(text)}
    of = [numpy.array([severity[f] for f in names]) for names in (files, test_files)]
    found = make_pipeline(StandardScaler(), RidgeCV(alphas=1 / strengths)).fit(x, of[0]).predict(x_test)
    return {"mae": mean_absolute_error(of[1], found), "r2": r2_score(of[1], found)}


def main():
    recipe, root, weights, seed, epochs, threads = sys.argv[1:7]
    root, epochs, threads = pathlib.Path(root), int(epochs), int(threads)
    torch.manual_seed(int(seed))
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    varied, plain = transforms()
    classes = sum(f.is_dir() for f in (root / "train").iterdir())
    start = time.perf_counter()
    model = network(None if recipe == "scratch" else weights, classes)
    if recipe == "features":
        # Workers are started and caches are warm the second time.
        for _ in range(2):
            start = time.perf_counter()
            rows = len(features(model, root / "train", threads, plain)[0])
            seconds = time.perf_counter() - start
        figures = {"images_per_second": rows / seconds}
    elif recipe in ("logistic", "ridge"):
        figures = by_scikit_learn(recipe, model, root, threads, plain)
        seconds = time.perf_counter() - start
    else:
        if recipe == "head":
            model.features.requires_grad_(False)
        batches = loader(root / "train", varied, threads, True)
        fit(model, batches, epochs, recipe)
        seconds = time.perf_counter() - start
        model.eval()
        hits = []
        with torch.no_grad():
            for pictures, wanted in loader(root / "test", plain, threads, False):
                hits += (model(pictures.to(DEVICE, memory_format=torch.channels_last)).argmax(1).cpu() == wanted).tolist()
        figures = {"top1": sum(hits) / len(hits)}
    print(json.dumps({"version": f"PyTorch {torch.__version__}", "recipe": recipe, "seed": int(seed), "seconds": seconds, **figures}))


if __name__ == "__main__":
    main()
