"""Makes an int8 ncnn network of an f32 one, in the format that ncnn's own tools ncnn2table and ncnn2int8 write.

Those tools are not in the wheel. Weights get a symmetric scale for each output channel, activations one for each blob
(largest magnitude over the calibration pictures); convolutions that feed nothing but int8 convolutions hand over int8.
Format: ncnn's wiki, "param and model file structure"; the order of the int8 fields is that of the layers' load_model.
"""

import collections
import dataclasses
import struct

import ncnn
import numpy as np

F32_TAG, INT8_TAG = 0, 0x000D4B38
# Type of a layer with weights -> (key of num_output, of bias_term, of weight_data_size, value of int8_scale_term).
WEIGHTED = {"Convolution": ("0", "5", "6", 2), "ConvolutionDepthWise": ("0", "5", "6", 1), "InnerProduct": ("0", "1", "2", 2)}
INT8_SCALE_TERM = "8"
HANDS_OVER_INT8 = 100


@dataclasses.dataclass
class Layer:
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, str]
    weights: np.ndarray | None = None
    bias: np.ndarray | None = None

    def parse(line):
        kind, name, inputs, outputs, *rest = line.split()
        inputs, outputs = int(inputs), int(outputs)
        blobs, pairs = rest[: inputs + outputs], rest[inputs + outputs :]
        return Layer(kind, name, blobs[:inputs], blobs[inputs:], dict(pair.split("=", 1) for pair in pairs))

    def line(self):
        pairs = " ".join(f"{key}={value}" for key, value in self.parameters.items())
        head = f"{self.kind:<24} {self.name:<24} {len(self.inputs)} {len(self.outputs)}"
        return " ".join([head, *self.inputs, *self.outputs, pairs])


def quantize(param, binary, pictures, int8_param, int8_binary):
    """Reads `param` and `binary`, calibrates on `pictures` ([3, h, w] each) and writes the other two."""
    magic, counts, *lines = param.read_text().splitlines()
    layers = [Layer.parse(line) for line in lines if line.strip()]
    read_weights(layers, binary)
    largest = largest_magnitudes(layers, param, binary, pictures)
    consumers = collections.defaultdict(list)
    for layer in layers:
        for blob in layer.inputs:
            consumers[blob].append(layer)
    with open(int8_binary, "wb") as out:
        for layer in layers:
            if layer.kind in WEIGHTED:
                write_int8(layer, largest, consumers, out)
    int8_param.write_text("\n".join([magic, counts, *(layer.line() for layer in layers)]) + "\n")


def read_weights(layers, binary):
    data = binary.read_bytes()
    at = 0
    for layer in layers:
        if layer.kind not in WEIGHTED:
            continue
        outputs, bias, size = (layer.parameters.get(key, "0") for key in WEIGHTED[layer.kind][:3])
        (tag,) = struct.unpack_from("<I", data, at)
        if tag != F32_TAG:
            raise ValueError(f"{binary}: expected f32 weights for {layer.name}, found the tag {tag:#x}")
        layer.weights = np.frombuffer(data, "<f4", int(size), at + 4).reshape(int(outputs), -1)
        at += 4 + 4 * int(size)
        if bias == "1":
            layer.bias = np.frombuffer(data, "<f4", int(outputs), at)
            at += 4 * int(outputs)
    if at != len(data):
        raise ValueError(f"{binary}: expected {at} bytes, found {len(data)}: a layer has weights that are not known here")


def largest_magnitudes(layers, param, binary, pictures):
    """Returns, for each blob that a layer with weights reads, its largest magnitude."""
    net = ncnn.Net()
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    if net.load_param(str(param)) != 0 or net.load_model(str(binary)) != 0:
        raise ValueError(f"expected ncnn to read {param}, found that it cannot")
    blobs = sorted({layer.inputs[0] for layer in layers if layer.kind in WEIGHTED})
    largest = dict.fromkeys(blobs, 0.0)
    for picture in pictures:
        extractor = net.create_extractor()
        extractor.set_light_mode(False)
        extractor.input(net.input_names()[0], ncnn.Mat(picture))
        for blob in blobs:
            code, values = extractor.extract(blob)
            if code != 0:
                raise ValueError(f"{param}: expected to read the blob {blob}, found ncnn's code {code}")
            largest[blob] = max(largest[blob], float(np.abs(np.array(values)).max()))
    return largest


def write_int8(layer, largest, consumers, out):
    term = WEIGHTED[layer.kind][3]
    scales = scale(np.abs(layer.weights).max(axis=1))
    weights = np.clip(np.round(layer.weights * scales[:, None]), -127, 127).astype(np.int8).tobytes()
    out.write(struct.pack("<I", INT8_TAG) + weights + bytes(-len(weights) % 4))
    if layer.bias is not None:
        out.write(layer.bias.tobytes())
    out.write(scales.astype("<f4").tobytes())
    out.write(struct.pack("<f", scale(largest[layer.inputs[0]])))
    readers = consumers[layer.outputs[0]]
    if layer.kind != "InnerProduct" and readers and all(reader.kind.startswith("Convolution") for reader in readers):
        term += HANDS_OVER_INT8
        out.write(struct.pack("<f", scale(largest[layer.outputs[0]])))
    layer.parameters[INT8_SCALE_TERM] = str(term)


def scale(largest):
    """Returns the steps for a unit; 1 for a tensor of zeros, so that dividing by it is safe."""
    return 127 / np.where(np.asarray(largest) == 0, 127, largest)
