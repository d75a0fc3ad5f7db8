"""Makes the networks that `cargo xtask peers` times: real PyTorch exports with random weights, and their int8 twins.

    models.py FOLDER [NAME ...]

Writes NAME.f32.onnx, NAME.int8.onnx, models.json and ops.txt into FOLDER. No hub is asked for weights: they are drawn
by He's rule from a fixed seed. The batch norms' running statistics are measured on random batches, so that every layer
sees activations of a usual size and int8 calibration has something to calibrate.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import pathlib
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

NAMES = ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnet_b0"]
SHAPE = (3, 224, 224)
SEED = 7
CALIBRATION_PICTURES = 16
# Below this the int8 file would be a degenerate one, and its timing still right but its answer useless.
LEAST_CORRELATION = 0.9


def main():
    arguments = argparse.ArgumentParser(description="Makes the networks that the peers are timed on.")
    arguments.add_argument("folder", type=pathlib.Path)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    given = arguments.parse_args()
    if unknown := sorted(set(given.names) - set(NAMES)):
        sys.exit(f"error: expected models among {', '.join(NAMES)}, found {', '.join(unknown)}")
    given.folder.mkdir(parents=True, exist_ok=True)
    known = given.folder / "models.json"
    facts = json.loads(known.read_text()) if known.exists() else {}
    for name in given.names or NAMES:
        facts |= make(name, given.folder)
        # After each: a run that is interrupted keeps what it has made.
        write_facts(given.folder, facts)


def make(name, folder):
    """Returns what is known of both files, by file name."""
    print(f"making {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        temporary = pathlib.Path(temporary)
        f32, prepared, int8 = (temporary / part for part in ("f32.onnx", "prepared.onnx", "int8.onnx"))
        export(network(name), f32)
        quant_pre_process(f32, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            int8,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
        for file in (f32, int8):
            onnx.checker.check_model(file, full_check=True)
        float_logits, int8_logits = logits(f32), logits(int8)
        correlation = float(np.corrcoef(float_logits, int8_logits)[0, 1])
        spread = float(float_logits.std())
        if not (correlation >= LEAST_CORRELATION and 1e-2 < spread < 1e2):
            sys.exit(
                f"error: {name}: expected logits of a usual size and an int8 twin that follows them (correlation at "
                f"least {LEAST_CORRELATION}), found a standard deviation of {spread:.3g} and {correlation:.3f}"
            )
        f32 = f32.replace(folder / f"{name}.f32.onnx")
        int8 = int8.replace(folder / f"{name}.int8.onnx")
    return {
        f32.name: describe(f32) | {"exporter": f"torch.onnx.export {torch.__version__}, dynamo"},
        int8.name: describe(int8)
        | {
            "exporter": f"onnxruntime.quantization {onnxruntime.__version__}, QDQ, u8 activations, s8 weights, per channel",
            "correlation_with_f32": correlation,
        },
    }


def network(name):
    """Returns a torchvision network with He weights and batch norms that fit them, in evaluation mode."""
    torch.manual_seed(SEED)
    model = getattr(torchvision.models, name)(weights=None)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                inputs = module.weight[0].numel()
                module.weight.normal_(0, math.sqrt(2 / inputs))
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0, math.sqrt(1 / module.in_features))
                module.bias.normal_(0, 0.1)
        # Scales and shifts of 1 and 0 would make folding them look simpler than it is.
        for norm in norms:
            norm.weight.uniform_(0.8, 1.2)
            norm.bias.normal_(0, 0.1)
            norm.momentum = None  # a plain mean over all batches
        model.eval()
        # Only the norms: stochastic depth in train mode would drop whole blocks.
        for norm in norms:
            norm.train()
        for _ in range(4):
            model(torch.randn(8, *SHAPE))
    return model.eval()


def export(model, file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.randn(1, *SHAPE),),
            file,
            input_names=["input"],
            output_names=["output"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class Pictures(CalibrationDataReader):
    """Random-normal pictures: what a normalised photograph looks like to the first layer, statistically."""

    def __init__(self):
        random = np.random.default_rng(SEED)
        self.left = (random.standard_normal((1, *SHAPE), np.float32) for _ in range(CALIBRATION_PICTURES))

    def get_next(self):
        picture = next(self.left, None)
        return None if picture is None else {"input": picture}


def logits(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Without VNNI the u8 x s8 kernels saturate at 16 bits; this asks for exact ones.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    picture = np.random.default_rng(SEED + 1).standard_normal((1, *SHAPE), np.float32)
    return session.run(None, {"input": picture})[0].ravel()


def describe(file):
    model = onnx.load(file)
    ops = collections.Counter(node.op_type for node in model.graph.node)
    return {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        "ops": dict(ops.most_common()),
    }


def write_facts(folder, facts):
    write(folder / "models.json", json.dumps(facts, indent=2) + "\n")
    lines = []
    for file, fact in facts.items():
        lines.append(f"{file}: {fact['bytes'] / 1e6:.1f} MB, opset {fact['opset']}, {fact['exporter']}")
        lines += [f"  {count:5} {op}" for op, count in fact["ops"].items()]
    write(folder / "ops.txt", "\n".join(lines) + "\n")


def write(file, text):
    temporary = file.with_suffix(".part")
    temporary.write_text(text)
    os.replace(temporary, file)


main()
