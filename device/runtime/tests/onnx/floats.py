"""Networks in single precision, as exporters write them."""

import numpy as np
from onnx import TensorProto

from net import Net

CASES = {}

# No reference runs these: they are to be refused.
UNANSWERED = {"unknown_operator", "foreign_domain", "open_sides", "two_inputs"}
# ONNX Runtime alone: onnx.reference has no Pad that crops.
UNREFERENCED = {"pad_that_crops"}
# Their weights are written to a file beside the model.
EXTERNAL = {"external_data"}


def case(shape, opset=17, kind="f32"):
    def register(build):
        CASES[build.__name__] = (build, shape, opset, kind)
        return build
    return register


def nets():
    for name, (build, shape, opset, kind) in CASES.items():
        net = Net(name, shape, opset, kind)
        build(net)
        yield name, net


# Windows.


@case(["n", 3, 9, 7], 11)
def open_batch(n):
    n.out(n.op("Relu", n.conv("image", [5, 3, 3, 3], pads=[1, 1, 1, 1])))


@case([1, 3, 12, 9], 11)
def auto_pad_upper(n):
    x = n.conv("image", [6, 3, 3, 3], auto_pad="SAME_UPPER", strides=[2, 2])
    x = n.conv(x, [6, 1, 3, 3], auto_pad="SAME_UPPER", strides=[2, 2], group=6)
    n.out(n.conv(x, [5, 6, 4, 2], auto_pad="SAME_UPPER"))


@case([1, 3, 12, 9], 13)
def auto_pad_lower(n):
    x = n.conv("image", [6, 3, 3, 3], auto_pad="SAME_LOWER", strides=[2, 2])
    x = n.conv(x, [6, 1, 4, 3], auto_pad="SAME_LOWER", strides=[1, 2], group=6)
    n.out(n.op("MaxPool", x, kernel_shape=[2, 2], auto_pad="SAME_LOWER"))


@case([1, 3, 12, 9], 13)
def auto_pad_valid(n):
    x = n.conv("image", [6, 3, 3, 2], auto_pad="VALID", strides=[2, 1])
    n.out(n.op("AveragePool", x, kernel_shape=[2, 3], auto_pad="VALID"))


@case([1, 3, 9, 7], 17)
def dilated_and_lopsided(n):
    x = n.conv("image", [7, 3, 3, 3], dilations=[2, 1], pads=[0, 1, 2, 1])
    x = n.conv(x, [7, 1, 3, 3], dilations=[1, 2], pads=[1, 0, 0, 3], group=7)
    n.out(n.conv(x, [4, 7, 2, 3], pads=[0, 2, 1, 0], strides=[2, 1]))


@case([1, 3, 12, 12], 17)
def strides_beyond_the_kernel(n):
    x = n.conv("image", [8, 3, 1, 1], strides=[2, 2])
    n.out(n.conv(x, [8, 8, 1, 1], strides=[2, 3]), n.conv(x, [8, 1, 2, 2], strides=[3, 3], group=8))


@case([1, 3, 12, 9], 18)
def large_kernels(n):
    x = n.conv("image", [6, 3, 7, 7], pads=[3, 3, 3, 3], strides=[2, 2])
    x = n.conv(x, [6, 1, 5, 5], pads=[2, 2, 2, 2], group=6)
    x = n.conv(x, [5, 6, 5, 5], pads=[2, 2, 2, 2])
    n.out(n.conv(x, [5, 1, 7, 7], pads=[3, 3, 3, 3], strides=[2, 2], group=5))


@case([1, 3, 14, 11], 17)
def tiled(n):
    """3x3 by one pixel over 16 channels and pixels enough for tiles of 4x4, as Winograd's method has them."""
    x = n.op("Relu", n.conv("image", [16, 3, 1, 1]))
    y = n.op("Relu", n.conv(x, [16, 16, 3, 3], pads=[1, 1, 1, 1]))
    x = n.op("Relu", n.op("Add", x, n.conv(y, [16, 16, 3, 3], pads=[1, 1, 1, 1])))
    n.out(n.op("Clip", n.conv(x, [5, 16, 3, 3], pads=[0, 1, 2, 0]), n.const(-0.5), n.const(0.5)))


@case([1, 1, 1, 3], 17, "u8")
def one_pixel(n):
    x = n.op("Transpose", n.op("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = n.op("Relu", n.conv(n.op("Div", x, n.const(128.0)), [5, 3, 3, 3], pads=[1, 1, 1, 1]))
    x = n.conv(x, [5, 1, 3, 3], pads=[1, 1, 1, 1], group=5)
    n.out(n.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))


@case([1, 3, 1, 1], 17)
def one_pixel_of_planes(n):
    n.out(n.op("Relu", n.conv("image", [5, 3, 3, 3], pads=[1, 1, 1, 1])))


@case([1, 1, 9, 11], 17)
def one_channel(n):
    n.out(n.conv(n.conv("image", [3, 1, 3, 3]), [1, 3, 3, 3]))


@case([1, 9, 11, 4], 17)
def four_channels_last(n):
    n.out(n.conv(n.op("Transpose", "image", perm=[0, 3, 1, 2]), [3, 4, 3, 3]))


@case([1, 4, 9, 7], 17)
def grouped(n):
    x = n.op("Relu", n.conv("image", [8, 2, 3, 3], group=2, pads=[1, 1, 1, 1]))
    n.out(n.conv(x, [6, 4, 1, 1], group=2), n.conv(x, [12, 2, 3, 3], group=4))


@case([1, 3, 9, 7], 17)
def depthwise_of_two_outputs_a_channel(n):
    n.out(n.op("Relu", n.conv("image", [6, 1, 3, 3], group=3, pads=[1, 1, 1, 1])))


@case([1, 3, 9, 7], 17)
def without_bias(n):
    x = n.conv("image", [6, 3, 3, 3], bias=False)
    x = n.op("Conv", x, n.const(n.random(6, 1, 3, 3)), "", group=6)
    n.out(n.op("Clip", x, "", n.const(0.5)), n.op("Clip", x, n.const(-0.25)))


# Pools.


@case([1, 3, 11, 9], 17)
def max_pools(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("MaxPool", x, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 2]))
    n.out(n.op("MaxPool", x, kernel_shape=[3, 3], dilations=[2, 1], pads=[2, 1, 1, 0]))


@case([1, 3, 12, 10], 17)
def max_pool_ceil(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
    n.out(n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 3], pads=[0, 1, 1, 1], ceil_mode=1))
    # The last window would lie in the padding alone.
    n.out(n.op("MaxPool", x, kernel_shape=[2, 1], strides=[3, 4], pads=[1, 0, 1, 0], ceil_mode=1))


@case([1, 3, 11, 9], 17)
def average_pools(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("AveragePool", x, kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 2]))
    n.out(n.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    n.out(n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))


@case([1, 3, 12, 10], 17)
def average_pool_ceil(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1))
    n.out(n.op("AveragePool", x, kernel_shape=[2, 2], strides=[3, 3], pads=[0, 1, 0, 0], ceil_mode=1))


@case([1, 3, 12, 10], 20)
def average_pool_ceil_and_padding_counted(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1))


@case([1, 3, 9, 7], 20)
def global_pools(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("GlobalAveragePool", x), n.op("GlobalMaxPool", x))
    n.out(n.op("ReduceMean", x, n.const([2, 3], np.int64), keepdims=0))
    n.out(n.op("ReduceMean", x, n.const([-1, -2], np.int64)))


@case([1, 3, 9, 7], 17)
def mean_of_axes_as_attribute(n):
    x = n.conv("image", [5, 3, 1, 1])
    n.out(n.op("ReduceMean", x, axes=[2, 3], keepdims=0), n.op("ReduceMean", x, axes=[-2, -1], keepdims=1))


# Normalisation and padding.


def batch_norm(n, x, channels, **attributes):
    scale, shift = n.random(channels, low=0.5, high=1.5), n.random(channels)
    mean, variance = n.random(channels, low=-0.5, high=0.5), n.random(channels, low=0.3, high=2.0)
    return n.op("BatchNormalization", x, *[n.const(v) for v in (scale, shift, mean, variance)], **attributes)


@case([1, 3, 9, 7], 13)
def batch_norm_after(n):
    x = n.op("Relu", batch_norm(n, n.conv("image", [6, 3, 3, 3], bias=False), 6, epsilon=1e-3))
    x = n.op("Clip", batch_norm(n, n.conv(x, [6, 1, 3, 3], group=6), 6), n.const(0.0), n.const(6.0))
    n.out(batch_norm(n, n.conv(x, [4, 6, 1, 1]), 4, momentum=0.9))


@case([1, 3, 9, 7], 17)
def batch_norm_before(n):
    x = n.conv(batch_norm(n, "image", 3), [6, 3, 3, 3], pads=[1, 1, 1, 1])
    y = n.op("Relu", batch_norm(n, x, 6))
    x = n.op("Add", x, n.conv(y, [6, 6, 3, 3], pads=[1, 1, 1, 1]))
    n.out(n.conv(n.op("Relu", batch_norm(n, x, 6)), [4, 6, 1, 1]))


@case([1, 3, 9, 7], 17)
def factors_and_terms_by_channel(n):
    x = n.op("Mul", n.conv("image", [6, 3, 3, 3], bias=False), n.const(n.random(1, 6, 1, 1, low=0.5)))
    x = n.op("Relu", n.op("Add", n.const(n.random(6, 1, 1)), x))
    x = n.op("Sub", n.op("Mul", x, n.const(n.random(6, 1, 1))), n.const(n.random(1, 6, 1, 1)))
    n.out(n.op("Relu", n.op("Div", x, n.const(2.5))))


@case([1, 12, 12, 3], 13)
def keras_pads(n):
    x = n.op("Transpose", "image", perm=[0, 3, 1, 2])
    x = n.op("Pad", x, n.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), n.const(0.0))
    x = batch_norm(n, n.conv(x, [6, 3, 3, 3], strides=[2, 2], auto_pad="VALID"), 6, epsilon=1e-3)
    x = n.op("Relu", x)
    x = n.op("Pad", x, n.const([0, 0, 0, 0, 0, 0, 1, 1], np.int64))
    x = n.conv(x, [6, 1, 3, 3], strides=[2, 2], group=6)
    n.out(n.op("Clip", x, n.const(0.0), n.const(6.0)))


@case([1, 12, 12, 3], 13)
def keras_stem(n):
    """ResNet50V2: a Pad in front of a MaxPool, whose input may be below zero."""
    x = n.op("Transpose", "image", perm=[0, 3, 1, 2])
    x = n.op("Pad", x, n.const([0, 0, 3, 3, 0, 0, 3, 3], np.int64), n.const(0.0))
    x = n.conv(x, [6, 3, 7, 7], strides=[2, 2])
    x = n.op("Pad", x, n.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), n.const(0.0))
    n.out(n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]))


@case([1, 3, 9, 7], 13)
def pad_before_a_function(n):
    x = n.op("Pad", n.conv("image", [5, 3, 1, 1]), n.const([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
    n.out(n.conv(n.op("Relu", x), [4, 5, 3, 3], auto_pad="SAME_UPPER", strides=[2, 2]))
    n.out(n.op("Sigmoid", x))


@case([1, 3, 9, 7], 17)
def pad_as_output(n):
    n.out(n.op("Pad", n.conv("image", [5, 3, 1, 1]), n.const([0, 0, 1, 2, 0, 0, 0, 1], np.int64)))


@case([1, 3, 9, 7], 17)
def pad_reflecting(n):
    x = n.op("Pad", "image", n.const([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="reflect")
    n.out(n.conv(x, [4, 3, 3, 3]))


@case([1, 3, 9, 7], 17)
def pad_that_crops(n):
    x = n.op("Pad", n.conv("image", [5, 3, 1, 1]), n.const([0, 0, -1, 0, 0, 0, 0, 1], np.int64))
    n.out(n.conv(x, [4, 5, 3, 3]))


# Preprocessing in the graph.


def by_mean(n, x, planes=True):
    shape = (1, 3, 1, 1) if planes else (3,)
    mean, std = np.reshape([123.7, 116.3, 103.5], shape), np.reshape([58.4, 57.1, 57.4], shape)
    return n.op("Div", n.op("Sub", x, n.const(mean)), n.const(std))


@case([1, 9, 7, 3], 13, "u8")
def bytes_less_their_mean(n):
    x = n.op("Cast", n.op("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    n.out(n.conv(by_mean(n, x), [6, 3, 3, 3], pads=[1, 1, 1, 1]))


@case([1, 9, 7, 3], 13, "u8")
def bytes_rescaled(n):
    """Keras's Rescaling layer in front of its Transpose."""
    x = n.op("Mul", n.op("Cast", "image", to=TensorProto.FLOAT), n.const(1 / 127.5))
    x = n.op("Transpose", n.op("Add", x, n.const(-1.0)), perm=[0, 3, 1, 2])
    n.out(n.conv(x, [6, 3, 3, 3], pads=[1, 1, 1, 1]))


@case([1, 9, 7, 3], 18)
def floats_rescaled(n):
    x = n.op("Mul", "image", n.const(0.5))
    x = by_mean(n, n.op("Mul", n.op("Sub", x, n.const([1.0])), n.const(100.0)), planes=False)
    n.out(n.conv(n.op("Transpose", x, perm=[0, 3, 1, 2]), [6, 3, 3, 3], pads=[1, 1, 1, 1]))


@case([1, 3, 9, 7], 17, "u8")
def bytes_in_planes(n):
    n.out(n.conv(by_mean(n, n.op("Cast", "image", to=TensorProto.FLOAT)), [6, 3, 3, 3]))


@case([1, 9, 7, 3], 17)
def picture_as_output(n):
    x = n.op("Transpose", n.op("Div", "image", n.const(2.0)), perm=[0, 3, 1, 2])
    n.out(x, n.op("Add", x, n.conv(x, [3, 3, 1, 1])))


# Heads.


def features(n, channels=5):
    return n.op("Relu", n.conv("image", [channels, 3, 3, 3], strides=[2, 2]))


def gemm(n, x, inputs, outputs, **attributes):
    shape = (outputs, inputs) if attributes.get("transB") else (inputs, outputs)
    return n.op("Gemm", x, n.const(n.random(*shape)), n.const(n.random(outputs)), **attributes)


@case([1, 3, 9, 7], 13)
def flat_in_every_way(n):
    x = n.op("GlobalAveragePool", features(n))
    shapes = ([1, 5], [0, -1], [-1, 5], [0, 5], [1, -1])
    flat = [n.op("Reshape", x, n.const(shape, np.int64)) for shape in shapes]
    flat += [n.op("Flatten", x), n.op("Flatten", x, axis=-3), n.op("Squeeze", x, n.const([2, 3], np.int64))]
    flat += [n.op("Squeeze", x, n.const([-1, -2], np.int64))]
    n.out(*[gemm(n, f, 5, 3, transB=1) for f in flat])


@case([1, 3, 9, 7], 11)
def squeeze_of_axes_as_attribute(n):
    x = n.op("GlobalAveragePool", features(n))
    n.out(n.op("Softmax", gemm(n, n.op("Squeeze", x, axes=[2, 3]), 5, 3)))


@case([1, 3, 9, 7], 17)
def flat_maps(n):
    """As in LeNet and VGG: the product reads every pixel."""
    x = features(n)
    n.out(gemm(n, n.op("Flatten", x), 60, 4, transB=1))
    n.out(gemm(n, n.op("Relu", n.op("Reshape", x, n.const([1, 60], np.int64))), 60, 4))
    n.out(n.op("Flatten", n.op("AveragePool", x, kernel_shape=[2, 2])))


@case([1, 9, 7, 3], 17)
def flat_maps_channels_last(n):
    """As Keras flattens."""
    x = n.conv(n.op("Transpose", "image", perm=[0, 3, 1, 2]), [5, 3, 3, 3], strides=[2, 2])
    x = n.op("Reshape", n.op("Transpose", x, perm=[0, 2, 3, 1]), n.const([-1, 60], np.int64))
    n.out(n.op("Add", n.op("MatMul", x, n.const(n.random(60, 4))), n.const(n.random(4))))


@case([1, 9, 7, 3], 13)
def keras_head(n):
    x = n.op("Transpose", "image", perm=[0, 3, 1, 2])
    x = n.op("Relu", n.conv(x, [5, 3, 3, 3], strides=[2, 2]))
    x = n.op("Squeeze", n.op("GlobalAveragePool", x), n.const([2, 3], np.int64))
    x = n.op("Add", n.op("MatMul", x, n.const(n.random(5, 4))), n.const(n.random(4)))
    n.out(n.op("Softmax", x))


@case([1, 3, 9, 7], 17)
def gemms(n):
    x = n.op("Flatten", n.op("GlobalAveragePool", features(n)))
    n.out(gemm(n, x, 5, 3), gemm(n, x, 5, 3, transB=1), n.op("Gemm", x, n.const(n.random(5, 2))))
    n.out(n.op("Gemm", x, n.const(n.random(5, 2)), n.const(n.random(1, 2))))


@case([1, 3, 9, 7], 17)
def gemms_of_alpha_and_beta(n):
    x = n.op("Flatten", n.op("GlobalAveragePool", features(n)))
    n.out(gemm(n, x, 5, 3, alpha=0.5, beta=2.0), gemm(n, x, 5, 3, alpha=-3.0, beta=0.0, transB=1))
    n.out(n.op("Gemm", x, n.const(n.random(5, 2)), n.const(n.random(1, 2)), beta=0.25))


@case([1, 3, 9, 7], 21)
def softmax_of_logits(n):
    x = gemm(n, n.op("Flatten", n.op("GlobalAveragePool", features(n))), 5, 19, transB=1)
    n.out(x, n.op("Softmax", x), n.op("Softmax", x, axis=1))


@case([1, 3, 9, 7], 17)
def softmax_over_pixels(n):
    n.out(n.op("Softmax", features(n), axis=1), n.op("Softmax", n.op("Flatten", features(n))))


# Functions.


@case([1, 3, 9, 7], 18)
def hard_swish(n):
    n.out(n.op("HardSwish", n.conv(n.op("HardSwish", n.conv("image", [6, 3, 3, 3])), [6, 1, 3, 3], group=6)))


@case([1, 3, 9, 7], 13)
def hard_swish_by_hard_sigmoid(n):
    x = n.conv("image", [6, 3, 3, 3])
    x = n.op("Mul", x, n.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    y = n.op("HardSigmoid", n.conv(x, [4, 6, 1, 1]))
    n.out(n.op("Mul", y, n.conv(x, [4, 6, 1, 1])), n.op("Mul", n.op("HardSigmoid", x), x))


@case([1, 3, 9, 7], 11)
def hard_swish_by_clip(n):
    """PyTorch's of old, and Keras's."""
    three, six = n.const(3.0), n.const(6.0)
    x = n.conv("image", [6, 3, 3, 3])
    gate = n.op("Clip", n.op("Add", x, three), n.const(0.0), six)
    x = n.conv(n.op("Div", n.op("Mul", x, gate), six), [6, 6, 1, 1])
    gate = n.op("Div", n.op("Clip", n.op("Add", x, three), n.const(0.0), six), six)
    x = n.conv(n.op("Mul", x, gate), [6, 1, 3, 3], group=6)
    gate = n.op("Mul", n.op("Clip", n.op("Add", three, x), n.const(0.0), six), n.const(1 / 6))
    n.out(n.op("Mul", gate, x), n.op("Mul", n.const([0.7]), n.op("Sub", n.conv(x, [2, 6, 1, 1]), three)))


@case([1, 3, 9, 7], 17)
def silu(n):
    x = n.conv("image", [6, 3, 3, 3])
    x = n.conv(n.op("Mul", x, n.op("Sigmoid", x)), [6, 1, 3, 3], group=6)
    n.out(n.op("Mul", n.op("Sigmoid", x), x), n.op("Sigmoid", x))


@case([1, 3, 9, 7], 17)
def leaky_relu(n):
    n.out(n.op("LeakyRelu", n.conv("image", [6, 3, 3, 3]), alpha=0.1))


# Blocks.


def squeeze_excite(n, x, channels, inner, gate):
    y = n.op("Relu", n.conv(n.op("GlobalAveragePool", x), [inner, channels, 1, 1]))
    return n.op("Mul", x, n.op(gate, n.conv(y, [channels, inner, 1, 1])))


@case([1, 3, 9, 7], 18)
def squeeze_and_excite(n):
    x = n.op("HardSwish", n.conv("image", [18, 3, 3, 3]))
    x = squeeze_excite(n, x, 18, 5, "HardSigmoid")
    x = n.conv(x, [6, 18, 1, 1])
    x = n.op("Relu", squeeze_excite(n, n.op("Mul", x, n.op("Sigmoid", x)), 6, 2, "Sigmoid"))
    n.out(n.conv(x, [4, 6, 1, 1]))


@case([1, 3, 9, 7], 18)
def squeeze_and_excite_of_products(n):
    """With Linear layers, as PyTorch users write it: view(b, c), view(b, c, 1, 1)."""
    x = n.op("Relu", n.conv("image", [6, 3, 3, 3]))
    y = n.op("ReduceMean", x, n.const([2, 3], np.int64), keepdims=0)
    y = n.op("Sigmoid", gemm(n, n.op("Relu", gemm(n, y, 6, 3, transB=1)), 3, 6, transB=1))
    z = n.op("Mul", x, n.op("Reshape", y, n.const([1, 6, 1, 1], np.int64)))
    n.out(n.conv(z, [4, 6, 1, 1]), n.op("Mul", n.op("Unsqueeze", y, n.const([2, 3], np.int64)), x))


@case([1, 3, 9, 7], 17)
def residual_sums(n):
    def branch(x):
        return n.conv(n.op("Relu", n.conv(x, [6, 6, 3, 3], pads=[1, 1, 1, 1])), [6, 6, 1, 1])
    x = n.op("Relu", n.conv("image", [6, 3, 3, 3]))
    a = n.op("Relu", n.op("Add", branch(x), x))
    b = n.op("Add", a, branch(a))
    c = n.op("Add", n.op("Add", b, branch(b)), branch(b))
    d = n.op("Add", n.op("Relu", branch(c)), c)
    e = n.op("Add", n.conv(d, [6, 1, 3, 3], pads=[1, 1, 1, 1], group=6), d)
    n.out(n.op("Add", e, e), n.op("Add", d, a))


@case([1, 3, 9, 7], 17)
def readers_of_a_sum_s_operand(n):
    x = n.conv("image", [6, 3, 3, 3])
    y = n.conv(x, [6, 6, 1, 1])
    z = n.op("Add", x, y)
    n.out(n.op("Add", z, n.op("Relu", y)), n.op("Identity", y), n.op("Relu", z), z)


@case([1, 3, 9, 7], 17)
def two_outputs(n):
    x = features(n)
    n.out(x, gemm(n, n.op("Flatten", n.op("GlobalAveragePool", x)), 5, 3, transB=1))


@case([1, 3, 9, 7], 17)
def same_output_twice(n):
    x = features(n)
    n.out(n.op("Identity", x), n.op("Relu", x))


@case([1, 3, 9, 7], 17)
def concatenated(n):
    x = features(n)
    n.out(n.op("Concat", x, n.conv(x, [4, 5, 1, 1]), axis=1))


# How files are written.


@case([1, 3, 9, 7], 17)
def constant_nodes(n):
    x = n.conv("image", [5, 3, 3, 3], make=n.node_const)
    x = n.op("Clip", x, n.op("Constant", value_float=0.0), n.node_const(6.0))
    x = n.op("ReduceMean", x, axes=[2, 3])
    x = n.op("Reshape", x, n.op("Constant", value_ints=[1, -1]))
    x = n.op("MatMul", x, n.node_const(n.random(5, 3)))
    n.out(n.op("Add", x, n.op("Constant", value_floats=[0.5, -1.0, 2.0])))


@case([1, 3, 9, 7], 13)
def typed_data(n):
    """Tensors in float_data and int64_data rather than raw_data."""
    x = n.op("GlobalAveragePool", features(n))
    x = n.op("Reshape", x, n.const([1, 5], np.int64))
    n.out(gemm(n, x, 5, 3))
    for tensor in n.initializers:
        kind, field = (np.int64, tensor.int64_data) if tensor.data_type == TensorProto.INT64 else (np.float32, tensor.float_data)
        field.extend(np.frombuffer(tensor.raw_data, kind).tolist())
        tensor.ClearField("raw_data")


@case([1, 3, 9, 7], 11)
def dropout_of_old(n):
    x = n.op("Dropout", n.op("Identity", features(n)), ratio=0.4)
    n.out(n.op("Dropout", n.conv(x, [4, 5, 1, 1])))


@case([1, 3, 9, 7], 17)
def dropout(n):
    x = n.op("Dropout", features(n), n.const(0.4), outputs=2)
    n.out(n.conv(x, [4, 5, 1, 1]))


@case([1, 3, 9, 7], 13)
def shared_weights(n):
    w, b = n.const(n.random(3, 3, 3, 3)), n.const(n.random(3))
    x = "image"
    for _ in range(3):
        x = n.op("Relu", n.op("Conv", x, w, b, pads=[1, 1, 1, 1]))
    n.out(x)


# What only tract runs, or nothing.


@case([1, 1, 9, 7], 17)
def lstm(n):
    x = n.op("Transpose", n.op("Squeeze", "image", n.const([1], np.int64)), perm=[1, 0, 2])
    w, r = n.random(1, 16, 7, low=-0.5, high=0.5), n.random(1, 16, 4, low=-0.5, high=0.5)
    y = n.op("LSTM", x, n.const(w), n.const(r), hidden_size=4)
    n.out(n.op("Squeeze", y, n.const([1], np.int64)))


@case([1, 3, 9, 7], 17)
def unknown_operator(n):
    n.out(n.op("Mystery", features(n)))


@case([1, 3, 9, 7], 17)
def foreign_domain(n):
    """An operator of another's that is named as one of ONNX's."""
    n.out(n.op("Relu", n.op("Relu", features(n), domain="org.example")))


@case([1, 3, 9, 7], 17)
def external_data(n):
    # More than what is read at a time, and one number.
    x = n.op("Relu", n.conv("image", [96, 3, 5, 5], pads=[2, 2, 2, 2]))
    x = n.conv(n.op("Mul", x, n.const([0.7])), [5, 96, 3, 3], bias=False)
    n.out(n.op("Add", x, n.const(n.random(5, 1, 1))))


@case(["n", 3, "height", "width"], 17)
def open_sides(n):
    n.out(features(n))


@case([1, 3, 9, 7], 17)
def two_inputs(n):
    n.inputs.append(("other", [1, 5, 4, 3]))
    n.out(n.op("Add", features(n), "other"))
