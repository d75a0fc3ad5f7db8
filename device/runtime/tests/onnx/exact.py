"""Evaluates a QDQ graph in integers, where onnx.reference computes in floats.

A convolution or product of dequantized operands is an exact integer sum; a rounding right after it multiplies the sum, as
a float, once by `float32(sx * sw / sy)` and rounds half to even, as ONNX's QLinearConv does. Means are exact sums as well,
with `float32(sx / (count * sy))`, and products of two activations have `float32(sa * sb / sy)`, as QLinearMul. All other
nodes are onnx.reference's own.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

F = np.float32
# onnx.reference has no older QuantizeLinear; what these graphs use of the others is the same in 13 and 17.
OPSET = 21


class Steps:
    """What a DequantizeLinear was given."""

    def __init__(self, q, scale, zero):
        self.q, self.scale, self.zero = q, scale, zero

    def less_zero(self):
        return self.q.astype(np.int64) - np.asarray(self.zero, np.int64)


class Sum:
    """An exact sum, the factor to steps of a scale, and bounds of the number it stands for."""

    def __init__(self, sums, factor, low=-np.inf, high=np.inf):
        self.sums, self.factor, self.low, self.high = sums, factor, low, high

    def steps(self, scale):
        """Before they are rounded."""
        return self.sums.astype(F) * self.factor(scale)

    def rounded(self, scale, zero, kind):
        steps = np.round(self.steps(scale))
        steps = np.clip(steps, np.round(F(self.low) / scale), np.round(F(self.high) / scale))
        info = np.iinfo(kind)
        return np.clip(steps + F(zero), info.min, info.max).astype(kind)


def channels(values, rank=4):
    """A vector along axis 1."""
    values = np.asarray(values, F)
    return values.reshape([-1] + [1] * (rank - 2)) if values.ndim else values


def run_node(node, values):
    """One node by onnx.reference."""
    names = [n for n in node.input if n]
    infos = [helper.make_empty_tensor_value_info(n) for n in names]
    outputs = [helper.make_empty_tensor_value_info(n) for n in node.output]
    graph = helper.make_graph([node], "one", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    return ReferenceEvaluator(model).run(None, {n: values[n] for n in names})


def integer_conv(node, x, w):
    """`x` and `w` less their zeros, by onnx.reference's Conv on doubles, which hold such sums exactly."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    conv.attribute.extend(node.attribute)
    y = run_node(conv, {"x": x.astype(np.float64), "w": w.astype(np.float64)})[0]
    assert np.abs(y).max() < 2**53 and (y == np.round(y)).all()
    return y.astype(np.int64)


def bias_steps(node, steps, floats, units):
    """A bias in whole units of the sums."""
    if len(node.input) < 3:
        return 0
    given = steps.get(node.input[2])
    if given is not None:
        return given.less_zero()
    return np.round(floats[node.input[2]].astype(np.float64) / units.astype(np.float64)).astype(np.int64)


def run(model, picture, convolutions):
    """Returns the outputs; appends `(node, x, w, bias, scale and zero out, found, steps)` of each rounded Conv."""
    floats = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    floats[model.graph.input[0].name] = picture
    steps, sums, made_by = {}, {}, {}
    for node in model.graph.node:
        given = [steps.get(name) for name in node.input]
        out = node.output[0]
        op = node.op_type
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if op == "QuantizeLinear" and node.input[0] in sums:
            scale, zero = floats[node.input[1]], floats[node.input[2]]
            floats[out] = sums[node.input[0]].rounded(scale, zero, zero.dtype)
            if node.input[0] in made_by:
                found = (floats[out], sums[node.input[0]].steps(scale))
                convolutions.append((*made_by[node.input[0]], scale, zero, *found))
            continue
        if op in ("Relu", "Clip") and node.input[0] in sums:
            s = sums[node.input[0]]
            bounds = (0, np.inf) if op == "Relu" else tuple(floats[n] for n in node.input[1:3])
            sums[out] = Sum(s.sums, s.factor, *bounds)
        if op in ("Conv", "Gemm", "MatMul") and given[0] and given[1]:
            x, w = given[0], given[1]
            across = op == "Conv" or attributes.get("transB", 0)
            if op == "Conv":
                total = integer_conv(node, x.less_zero(), w.less_zero())
                made_by[out] = (node, x, w)
            else:
                total = x.less_zero() @ (w.less_zero().T if across else w.less_zero())
            rank = total.ndim
            outputs = total.shape[1]
            units = np.broadcast_to(F(x.scale) * np.asarray(w.scale, F), (outputs,)).astype(F)
            bias = bias_steps(node, steps, floats, units)
            total = total + (np.reshape(bias, [-1] + [1] * (rank - 2)) if len(node.input) > 2 else 0)
            if op == "Conv":
                made_by[out] += (np.broadcast_to(bias, (outputs,)).astype(np.int32),)
            sums[out] = Sum(total, lambda sy, u=units, r=rank: channels(u / F(sy), r))
            floats[out] = (total.astype(F) * channels(units, rank)).astype(F)
            continue
        if op in ("GlobalAveragePool", "AveragePool") and given[0]:
            x = given[0]
            # An exact count of the pixels in each window, and an exact sum.
            counts = run_node(node, {node.input[0]: np.ones(x.q.shape, np.float64)})[0]
            assert (counts == 1).all(), "windows without padding"
            k = x.q.shape[2:] if op == "GlobalAveragePool" else attributes["kernel_shape"]
            count = int(np.prod(k))
            mean = run_node(node, {node.input[0]: x.less_zero().astype(np.float64)})[0]
            sums[out] = Sum(np.round(mean * count).astype(np.int64), lambda sy, s=x.scale, n=count: F(s) / (F(n) * F(sy)))
        if op == "Mul" and given[0] and given[1]:
            a, b = given
            unit = F(a.scale) * F(b.scale)
            sums[out] = Sum(a.less_zero() * b.less_zero(), lambda sy, u=unit: u / F(sy))
        if op == "DequantizeLinear":
            zero = floats[node.input[2]] if len(node.input) > 2 else 0
            q, scale = floats[node.input[0]], floats[node.input[1]]
            axis_of_outputs = attributes.get("axis", 1)
            per_output = np.ndim(scale) == 0 or axis_of_outputs in (0, q.ndim - 1)
            if per_output:
                z = np.asarray(zero, np.int64)
                shape = [1] * q.ndim
                if z.ndim:
                    shape[axis_of_outputs] = -1
                steps[out] = Steps(q, scale, z.reshape(shape) if z.ndim else z)
        if op in ("Squeeze", "Flatten", "Reshape", "Identity", "Unsqueeze") and given[0]:
            moved = run_node(node, {**floats, node.input[0]: given[0].q})[0]
            steps[out] = Steps(moved, given[0].scale, given[0].zero)
        for name, value in zip(node.output, run_node(node, floats), strict=True):
            floats[name] = value
    return [floats[o.name] for o in model.graph.output]


def qlinear_conv(node, x, w, bias, scale, zero):
    """The same convolution by onnx.reference's QLinearConv."""
    q = helper.make_node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"])
    q.attribute.extend(node.attribute)
    values = {
        "x": x.q, "xs": np.asarray(x.scale), "xz": np.asarray(x.zero).astype(x.q.dtype), "w": w.q,
        "ws": np.asarray(w.scale), "wz": np.ravel(w.zero).astype(w.q.dtype) if np.ndim(w.zero) else w.q.dtype.type(w.zero),
        "ys": scale, "yz": zero, "b": bias,
    }
    return run_node(q, values)[0]
