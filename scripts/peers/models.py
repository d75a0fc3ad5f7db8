"""Makes the networks that `cargo xtask peers` times: real PyTorch exports with random weights, and their int8 twins.

    models.py FOLDER [NAME ...]

Writes into FOLDER, for f32 and int8, NAME.PRECISION.onnx (for ONNX Runtime, OpenVINO and graft), .ncnn.param with
.ncnn.bin, and .tflite; and input.f32 (the picture that is timed, raw), models.json and ops.txt. No hub is asked for
weights: they are drawn by He's rule from a fixed seed. The batch norms' running statistics are measured on random
batches, so that every layer sees activations of a usual size and int8 calibration has something to calibrate. All
int8 files come from the same float network and pictures; README.md says by which quantiser.
"""

import argparse
import collections
import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
import subprocess
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

import ncnn_int8

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
    with writing(given.folder / "input.f32") as file:
        random_pictures(SEED + 1, 1)[0].astype("<f4").tofile(file)
    known = given.folder / "models.json"
    facts = json.loads(known.read_text()) if known.exists() else {}
    for name in given.names or NAMES:
        print(f"making {name}", file=sys.stderr, flush=True)
        model = network(name)
        facts |= make_onnx(name, model, given.folder)
        facts |= or_left_out("ncnn", make_ncnn, name, model, given.folder)
        facts |= or_left_out("litert", make_litert, name, model, given.folder)
        # After each: a run that is interrupted keeps what it has made.
        write_facts(given.folder, facts)


def make_onnx(name, model, folder):
    """Returns what is known of both files, by file name."""
    files = [folder / f"{name}.{precision}.onnx" for precision in ("f32", "int8")]
    with writing(*files) as (f32, int8), tempfile.NamedTemporaryFile(suffix=".onnx") as prepared:
        export(model, f32)
        quant_pre_process(f32, prepared.name, skip_symbolic_shape=True)
        quantize_static(
            prepared.name,
            int8,
            Calibration(),
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
    facts = [describe(file) for file in files]
    facts[0]["made_by"] = f"torch.onnx.export {torch.__version__}, dynamo"
    facts[1]["made_by"] = f"onnxruntime.quantization {onnxruntime.__version__}, QDQ, u8 activations, s8 weights per channel"
    facts[1]["correlation_with_f32"] = correlation
    return {file.name: fact for file, fact in zip(files, facts, strict=True)}


def make_ncnn(name, _, folder):
    f32, int8 = ([folder / f"{name}.{precision}.ncnn.{part}" for part in ("param", "bin")] for precision in ("f32", "int8"))
    with tempfile.TemporaryDirectory() as temporary, writing(*f32, *int8) as parts:
        # pnnx writes eight files beside its input.
        source = shutil.copy(folder / f"{name}.f32.onnx", f"{temporary}/net.onnx")
        shape = ",".join(map(str, (1, *SHAPE)))
        pnnx = pathlib.Path(sys.executable).with_name("pnnx")
        run = subprocess.run([pnnx, source, f"inputshape=[{shape}]f32", "fp16=0"], capture_output=True, text=True)
        made = [pathlib.Path(temporary, f"net.ncnn.{part}") for part in ("param", "bin")]
        if run.returncode != 0 or not all(file.exists() for file in made):
            raise RuntimeError(f"expected pnnx to convert it, found status {run.returncode}: {run.stderr[-300:]}")
        for file, part in zip(made, parts, strict=False):
            shutil.copy(file, part)
        ncnn_int8.quantize(*parts[:2], random_pictures(SEED, CALIBRATION_PICTURES), *parts[2:])
    version = importlib.metadata.version("pnnx")
    made_by = [f"pnnx {version} on the ONNX file", f"ncnn_int8.py on pnnx {version}'s network, s8, per channel"]
    return {files[0].name: {"made_by": how} for files, how in zip((f32, int8), made_by, strict=True)}


def make_litert(name, model, folder):
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import AlgorithmName

    files = [folder / f"{name}.{precision}.tflite" for precision in ("f32", "int8")]
    with writing(*files) as (f32, int8):
        litert_torch.convert(model, (torch.zeros(1, *SHAPE),)).export(str(f32))
        work = quantizer.Quantizer(str(f32))
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        # As in the ONNX files, f32 goes in and comes out.
        for edge in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            work.update_quantization_recipe(regex=".*", operation_name=edge, algorithm_key=AlgorithmName.NO_QUANTIZE)
        pictures = [{"args_0": picture[None]} for picture in random_pictures(SEED, CALIBRATION_PICTURES)]
        measured = work.calibrate({"serving_default": pictures})
        work.quantize(measured).export_model(str(int8), overwrite=True)
    version = importlib.metadata.version
    made_by = [
        f"litert-torch {version('litert-torch')}",
        f"ai-edge-quantizer {version('ai-edge-quantizer')}, static_wi8_ai8 (s8, per channel)",
    ]
    return {file.name: {"made_by": how} for file, how in zip(files, made_by, strict=True)}


def or_left_out(engine, make, name, model, folder):
    """A converter that fails takes its own engine's row away, and no other."""
    try:
        return make(name, model, folder)
    except Exception as error:
        print(f"warning: {name}: no file for {engine}: {error}", file=sys.stderr, flush=True)
        return {}


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


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.left = iter(random_pictures(SEED, CALIBRATION_PICTURES))

    def get_next(self):
        picture = next(self.left, None)
        return None if picture is None else {"input": picture[None]}


def random_pictures(seed, count):
    """Random-normal pictures: what a normalised photograph looks like to the first layer, statistically."""
    random = np.random.default_rng(seed)
    return [random.standard_normal(SHAPE, np.float32) for _ in range(count)]


def logits(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # Without VNNI the u8 x s8 kernels saturate at 16 bits; this asks for exact ones.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": random_pictures(SEED + 1, 1)[0][None]})[0].ravel()


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
    lines = []
    for file, fact in facts.items():
        lines.append(f"{file}: {fact['made_by']}")
        if "ops" in fact:
            lines.append(f"  {fact['bytes'] / 1e6:.1f} MB, opset {fact['opset']}")
            lines += [f"  {count:5} {op}" for op, count in fact["ops"].items()]
    with writing(folder / "models.json", folder / "ops.txt") as (known, ops):
        known.write_text(json.dumps(facts, indent=2) + "\n")
        ops.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def writing(*files):
    """Gives temporary names and renames them at the end, so that a file is whole or not there."""
    with tempfile.TemporaryDirectory(dir=files[0].parent) as folder:
        temporary = [pathlib.Path(folder, file.name) for file in files]
        yield temporary if len(files) > 1 else temporary[0]
        for part, file in zip(temporary, files, strict=True):
            os.replace(part, file)


main()
