"""Writes the conformance suite: small ONNX files and what a reference makes of them.

NAME.onnx is a network, NAME.f32 the numbers of its outputs in turn, little-endian, NAME.data its weights where they are
outside. Run in an environment with requirements.txt: python make.py [FOLDER]
"""

import collections
import os
import sys

import numpy as np
import onnx
import onnxruntime
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors
from onnx.reference import ReferenceEvaluator

import exact
import floats
import integers


def reference(model, picture):
    """What onnx.reference makes of it."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    opset = model.opset_import[0]
    operators = {n.op_type for n in model.graph.node}
    # Its BatchNormalization of opsets 9 to 13 takes every default momentum for training.
    if opset.version == 13 and "BatchNormalization" in operators:
        opset.version = 14
    # It has QuantizeLinear from 19 on.
    if "QuantizeLinear" in operators:
        opset.version = exact.OPSET
    return ReferenceEvaluator(model).run(None, {"image": picture})


def runtime(model, picture):
    """What ONNX Runtime makes of it, or of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": picture})


def check(name, golden, other):
    for g, o in zip(golden, other, strict=True):
        largest = max(np.abs(g).max(), 1e-3)
        assert g.shape == o.shape and np.abs(g - o).max() <= 1e-5 * largest, f"{name}: {np.abs(g - o).max() / largest}"


def last_steps(model, found, other):
    """How many steps of the last QuantizeLinear each number differs by; none where floats come last."""
    made = {n.output[0]: n for n in model.graph.node}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    steps = []
    for output, f, o in zip(model.graph.output, found, other, strict=True):
        node = made[output.name]
        if node.op_type == "DequantizeLinear":
            steps.append(np.abs(np.round((f - o) / constants[node.input[1]])).ravel().astype(int))
    return np.concatenate(steps) if steps else np.zeros(0, int)


def write(folder, name, model, outputs):
    with open(os.path.join(folder, f"{name}.onnx"), "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
    with open(os.path.join(folder, f"{name}.f32"), "wb") as file:
        file.write(b"".join(np.ascontiguousarray(o, "<f4").tobytes() for o in outputs))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    for name, net in floats.nets():
        model, picture = net.model(), net.picture()
        if name in floats.UNANSWERED:
            write(folder, name, model, [])
            continue
        onnx.checker.check_model(model)
        golden = (runtime if name in floats.UNREFERENCED else reference)(model, picture)
        check(name, golden, runtime(model, picture))
        if name in floats.EXTERNAL:
            # The tensors' numbers go with the next call.
            convert_model_to_external_data(model, location=f"{name}.data", size_threshold=0)
            model = write_external_data_tensors(model, folder)
        write(folder, name, model, golden)
        if name in floats.EXTERNAL:
            check(name, golden, runtime(os.path.join(folder, f"{name}.onnx"), picture))
    print("integer network           outputs  clipped  other steps: onnx.reference  ONNX Runtime")
    convolutions, totals = [], collections.Counter()
    for name, net in integers.nets():
        model, picture = net.model(), net.picture()
        onnx.checker.check_model(model)
        golden = exact.run(model, picture, convolutions)
        by_float = last_steps(model, golden, reference(model, picture))
        by_ort = last_steps(model, golden, runtime(model, picture))
        flat = np.concatenate([g.ravel() for g in golden])
        clipped = np.mean((flat == flat.max()) | (flat == flat.min()))
        print(f"{name:26}{flat.size:7}{clipped:9.0%}{np.sum(by_float > 0):17} (most {by_float.max(initial=0)})"
              f"{np.sum(by_ort > 0):9} (most {by_ort.max(initial=0)})")
        totals.update(outputs=by_float.size, by_float=np.sum(by_float > 0), by_ort=np.sum(by_ort > 0))
        write(folder, name, model, golden)
    differ = ties = total = 0
    for node, x, w, bias, scale, zero, found, steps in convolutions:
        # A Relu between the sum and the rounding is not in QLinearConv: it bounds the integers.
        other = exact.qlinear_conv(node, x, w, bias, scale, zero).clip(found.min(), found.max()) != found
        differ, total = differ + np.sum(other), total + found.size
        ties += np.sum(other & (np.abs(steps - np.trunc(steps)) == 0.5))
    print(f"{len(convolutions)} convolutions: QLinearConv of onnx.reference has {differ} of {total} integers otherwise, "
          f"{ties} of them ties")
    print(dict(totals))


if __name__ == "__main__":
    main()
