"""Builds small ONNX graphs: a node a call, weights from a seeded generator."""

import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSIONS = {11: 6, 13: 7, 17: 8, 18: 8, 20: 9, 21: 10}


class Net:
    """A graph grown node by node; names of values are made here."""

    def __init__(self, name, shape, opset=17, kind="f32"):
        self.name, self.shape, self.opset, self.kind = name, shape, opset, kind
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))
        self.nodes, self.initializers, self.domains = [], [], set()
        self.count, self.inputs, self.outputs = 0, [("image", shape)], []

    def fresh(self, stem):
        self.count += 1
        return f"{stem.lower()}_{self.count}"

    def op(self, op, *inputs, domain="", outputs=1, **attributes):
        """Adds a node and returns the name of its first output."""
        names = [self.fresh(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], domain=domain, **attributes))
        self.domains.add(domain)
        return names[0]

    def const(self, value, dtype=np.float32, name=None):
        """Adds an initializer and returns its name."""
        name = name or self.fresh("c")
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node_const(self, value, dtype=np.float32):
        """The same as a Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype), self.fresh("v")))

    def random(self, *shape, low=-1.0, high=1.0):
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def conv(self, x, weights, bias=True, make=None, **attributes):
        """A Conv with random weights of a shape `[outputs, inputs of a group, kh, kw]`."""
        make = make or self.const
        inputs = [x, make(self.random(*weights) / np.sqrt(np.prod(weights[1:])) * 1.7)]
        if bias:
            inputs.append(make(self.random(weights[0], low=-0.3, high=0.3)))
        return self.op("Conv", *inputs, **attributes)

    def out(self, *names):
        self.outputs += names

    # Quantized graphs.

    def q(self, x, scale, zero=0, kind=np.uint8):
        return self.op("QuantizeLinear", x, self.const(scale), self.const(zero, kind))

    def dq(self, x, scale, zero=0, kind=np.uint8):
        return self.op("DequantizeLinear", x, self.const(scale), self.const(zero, kind))

    def pair(self, x, scale, zero=0, kind=np.uint8):
        return self.dq(self.q(x, scale, zero, kind), scale, zero, kind)

    def qweights(self, shape, scales, axis=0, values=None):
        """s8 weights with a scale an output, or one, and their DequantizeLinear."""
        values = self.rng.integers(-128, 128, shape) if values is None else values
        scales = np.asarray(scales, np.float32)
        zeros = self.const(np.zeros(scales.shape), np.int8)
        extra = {"axis": axis} if scales.ndim else {}
        return self.op("DequantizeLinear", self.const(values, np.int8), self.const(scales), zeros, **extra)

    def qconv(self, x, in_scale, shape, per_channel=True, bias=True, values=None, **attributes):
        """A Conv of s8 weights and an s32 bias whose sums are of about one size."""
        outputs = shape[0]
        scales = self.random(outputs, low=0.5, high=1.5) if per_channel else self.random(1, low=0.5, high=1.5)[0]
        scales = np.float32(scales / 74.0 / np.sqrt(np.prod(shape[1:])))
        inputs = [x, self.qweights(shape, scales, values=values)]
        if bias:
            units = np.broadcast_to(np.float32(in_scale) * scales, (outputs,)).astype(np.float32)
            steps = np.round(self.random(outputs, low=-0.5, high=0.5) / units)
            zeros = self.const(np.zeros(outputs), np.int32)
            inputs.append(self.op("DequantizeLinear", self.const(steps, np.int32), self.const(units), zeros, axis=0))
        return self.op("Conv", *inputs, **attributes)

    def model(self):
        """The model, its outputs' shapes as inferred."""
        kind = TensorProto.UINT8 if self.kind == "u8" else TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in self.inputs]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self.outputs]
        for output in outputs:
            output.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(self.domains - {""})]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSIONS[self.opset], producer_name="graft")
        if self.domains <= {""}:
            inferred = onnx.shape_inference.infer_shapes(model)
            del model.graph.output[:]
            model.graph.output.extend(inferred.graph.output)
        return model

    def picture(self):
        """The input: a formula, so that it need not be stored. tests/conformance.rs has the same."""
        shape = [side if isinstance(side, int) else 1 for side in self.shape]
        i = np.arange(np.prod(shape), dtype=np.uint64)
        hashed = (i * 2654435761 + 12345) & 0xFFFFFFFF
        hashed ^= hashed >> 15
        hashed = (hashed * 0x85EBCA6B) & 0xFFFFFFFF
        picture = (hashed >> 24).astype(np.uint8).reshape(shape)
        if self.kind == "u8":
            return picture
        return (picture.astype(np.float32) - 128) / 64
