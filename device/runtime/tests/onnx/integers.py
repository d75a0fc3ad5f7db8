"""QDQ networks, whose every integer is defined."""

import numpy as np
from onnx import TensorProto

from net import Net

CASES = {}


def case(shape, opset=13, kind="f32"):
    def register(build):
        CASES[build.__name__] = (build, shape, opset, kind)
        return build
    return register


def nets():
    for name, (build, shape, opset, kind) in CASES.items():
        net = Net(name, shape, opset, kind)
        build(net)
        yield name, net


def stem(n, channels, scale=0.0231, zero=0, strides=(1, 1), kind=np.uint8):
    """Bytes of `channels`, behind a ReLU if the zero point is 0."""
    x = n.pair("image", 0.0157, 127)
    x = n.qconv(x, 0.0157, [channels, 3, 3, 3], pads=[1, 1, 1, 1], strides=list(strides))
    if zero == 0 and kind == np.uint8:
        x = n.op("Relu", x)
    return n.pair(x, scale, zero, kind)


@case([1, 3, 12, 12])
def q_stem(n):
    n.out(stem(n, 20, 0.0123, strides=(2, 2)))


@case([1, 12, 12, 3], 17, "u8")
def q_stem_of_bytes(n):
    x = n.op("Cast", n.op("Transpose", "image", perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    x = n.op("Sub", x, n.const(np.reshape([123.7, 116.3, 103.5], (1, 3, 1, 1))))
    x = n.op("Div", x, n.const(np.reshape([58.4, 57.1, 57.4], (1, 3, 1, 1))))
    x = n.qconv(n.pair(x, 0.0207, 117), 0.0207, [9, 3, 3, 3], pads=[0, 0, 1, 1], strides=[2, 2])
    n.out(n.pair(n.op("Clip", x, n.const(0.0), n.const(6.0)), 0.0131))


@case([1, 9, 7, 3], 13)
def q_stem_channels_last(n):
    x = n.op("Transpose", n.pair("image", 0.0163, 101), perm=[0, 3, 1, 2])
    n.out(n.pair(n.qconv(x, 0.0163, [8, 3, 3, 3]), 0.021, 131))


@case([1, 1, 9, 7])
def q_one_channel(n):
    x = n.pair("image", 0.0157, 127)
    n.out(n.pair(n.qconv(x, 0.0157, [5, 1, 5, 5], pads=[2, 2, 2, 2]), 0.0231, 119))


@case([1, 3, 9, 7])
def q_dense(n):
    x = stem(n, 21, zero=37)
    n.out(n.pair(n.qconv(x, 0.0231, [35, 21, 3, 3], pads=[1, 1, 1, 1]), 0.0277, 113))


@case([1, 3, 9, 7])
def q_dense_signed(n):
    x = stem(n, 18, zero=-7, kind=np.int8)
    x = n.pair(n.qconv(x, 0.0231, [19, 18, 3, 3], pads=[1, 0, 0, 1], strides=[1, 2]), 0.0277, 5, np.int8)
    n.out(n.pair(n.op("Relu", n.qconv(x, 0.0277, [7, 19, 1, 1])), 0.0131, -128, np.int8))


@case([1, 3, 9, 7])
def q_dense_dilated(n):
    x = stem(n, 17, zero=37)
    x = n.qconv(x, 0.0231, [16, 17, 3, 2], pads=[2, 1, 2, 0], dilations=[2, 1])
    n.out(n.pair(x, 0.0277, 113))


@case([1, 3, 9, 7])
def q_pointwise(n):
    x = stem(n, 33)
    x = n.pair(n.op("Relu", n.qconv(x, 0.0231, [40, 33, 1, 1])), 0.0127)
    n.out(n.pair(n.qconv(x, 0.0127, [17, 40, 1, 1], strides=[2, 2]), 0.0093, 120))


@case([1, 3, 9, 7])
def q_one_scale(n):
    x = stem(n, 33, zero=3)
    n.out(n.pair(n.qconv(x, 0.0231, [18, 33, 1, 1], per_channel=False, bias=False), 0.0277, 99))


@case([1, 3, 9, 7])
def q_float_bias(n):
    x = stem(n, 16, zero=3)
    x = n.op("Conv", x, n.qweights([6, 16, 1, 1], np.full(6, 0.004)), n.const(n.random(6)))
    n.out(n.pair(x, 0.0277, 99))


def depthwise(n, kernel, stride, zero, kind=np.uint8):
    x = stem(n, 35, zero=zero, kind=kind)
    pad = kernel // 2
    attributes = {"pads": [pad] * 4, "strides": [stride] * 2, "group": 35}
    x = n.qconv(x, 0.0231, [35, 1, kernel, kernel], **attributes)
    n.out(n.pair(n.op("Clip", x, n.const(0.0), n.const(6.0)), 0.0113))


@case([1, 3, 12, 12])
def q_depthwise_3(n):
    depthwise(n, 3, 1, 37)


@case([1, 3, 12, 9])
def q_depthwise_3_by_2(n):
    depthwise(n, 3, 2, 0)


@case([1, 3, 12, 12])
def q_depthwise_5(n):
    depthwise(n, 5, 1, -31, np.int8)


@case([1, 3, 12, 9])
def q_depthwise_5_by_2(n):
    depthwise(n, 5, 2, 37)


@case([1, 3, 12, 9])
def q_depthwise_dilated(n):
    x = stem(n, 18, zero=37)
    x = n.qconv(x, 0.0231, [18, 1, 3, 3], pads=[0, 2, 2, 1], dilations=[1, 2], group=18)
    n.out(n.pair(x, 0.0213, 130))


@case([1, 3, 9, 7])
def q_grouped(n):
    x = stem(n, 8, zero=37)
    x = n.pair(n.qconv(x, 0.0231, [12, 4, 3, 3], group=2), 0.0213, 130)
    n.out(n.pair(n.qconv(x, 0.0213, [24, 1, 3, 3], group=12), 0.0213, 130))


@case([1, 3, 9, 7])
def q_extremes(n):
    """Sums as large as they get: what 16 bits cannot hold on the way."""
    x = n.pair(n.op("Mul", "image", n.const(1000.0)), 0.0157, 127)
    values = np.where(n.rng.integers(0, 2, (20, 3, 3, 3)), 127, -128)
    x = n.pair(n.qconv(x, 0.0157, [20, 3, 3, 3], values=values), 0.011, 127)
    values = np.full((20, 20, 1, 1), -128)
    values[::2] = 127
    x = n.pair(n.qconv(x, 0.011, [20, 20, 1, 1], values=values), 0.05, 1)
    values = np.full((20, 1, 3, 3), -128)
    x = n.pair(n.qconv(x, 0.05, [20, 1, 3, 3], values=values, group=20), 0.07, 254)
    n.out(x)


def twos(n, x, in_scale, shape, out_scale, **attributes):
    """A Conv whose sums are worth a power of two of the steps out: many fall between two steps."""
    scales = out_scale / in_scale * 0.5 ** n.rng.integers(5, 8, shape[0])
    return n.op("Conv", x, n.qweights(shape, scales), **attributes)


@case([1, 3, 9, 7], 17)
def q_ties(n):
    """Scales of powers of two, zero points odd and even: a last place too much or a rounding upwards would show."""
    x = n.pair("image", 1 / 32, 63)
    x = n.pair(twos(n, x, 1 / 32, [18, 3, 3, 3], 1 / 16, pads=[1, 1, 1, 1]), 1 / 16, 101)
    y = n.pair(twos(n, x, 1 / 16, [18, 1, 3, 3], 1 / 8, pads=[1, 1, 1, 1], group=18), 1 / 8, 124)
    z = n.pair(twos(n, x, 1 / 16, [18, 18, 1, 1], 1 / 4), 1 / 4, 127)
    n.out(y, z, n.pair(n.op("Add", y, z), 1 / 2, 115), n.pair(n.op("Add", x, y), 1 / 4, 128))
    n.out(n.pair(twos(n, y, 1 / 8, [7, 18, 3, 3], 1 / 4), 1 / 4, 128))


@case([1, 3, 9, 7])
def q_head(n):
    x = n.pair(n.op("GlobalAveragePool", stem(n, 21)), 0.0091)
    x = n.op("Flatten", x)
    w = n.qweights([11, 21], n.random(11, low=0.002, high=0.006))
    n.out(n.pair(n.op("Gemm", x, w, n.const(n.random(11)), transB=1), 0.0171, 111))


@case([1, 3, 9, 7])
def q_head_of_floats(n):
    x = n.pair(n.op("GlobalAveragePool", stem(n, 21)), 0.0091)
    w = n.qweights([21, 11], n.random(11, low=0.002, high=0.006), axis=1)
    x = n.op("MatMul", n.op("Reshape", x, n.const([1, 21], np.int64)), w)
    n.out(n.op("Add", x, n.const(n.random(11))))


@case([1, 3, 9, 7])
def q_head_between_pairs(n):
    """The mean and the change of shape with pairs on both sides."""
    x = n.pair(n.op("GlobalAveragePool", stem(n, 21)), 0.0091, 3)
    x = n.pair(n.op("Flatten", x), 0.0091, 3)
    w = n.qweights([11, 21], np.full(11, 0.004))
    n.out(n.pair(n.op("Gemm", x, w, transB=1), 0.0171, 111))


@case([1, 3, 9, 7])
def q_flat_maps(n):
    x = n.op("Flatten", stem(n, 6, strides=(2, 2)))
    w = n.qweights([7, 120], np.full(7, 0.0017))
    n.out(n.pair(n.op("Gemm", x, w, n.const(n.random(7)), transB=1), 0.0171, 111))


def block(n, relu, between):
    """A residual block: the sum of two, with a rounding of the branch in `between` or none."""
    x = stem(n, 18, zero=11)
    y = n.qconv(x, 0.0231, [18, 18, 3, 3], pads=[1, 1, 1, 1])
    if between:
        y = n.pair(y, 0.0197, 121)
    y = n.op("Add", y, x)
    if relu:
        y = n.op("Relu", y)
    y = n.pair(y, 0.0317, 0 if relu else 89)
    z = n.qconv(y, 0.0317, [18, 18, 1, 1])
    if between:
        z = n.pair(z, 0.0211, 135)
    n.out(n.pair(n.op("Add", y, z), 0.0411, 77))


@case([1, 3, 9, 7])
def q_sum(n):
    block(n, False, True)


@case([1, 3, 9, 7])
def q_sum_and_relu(n):
    block(n, True, True)


@case([1, 3, 9, 7])
def q_sum_unrounded(n):
    block(n, True, False)


@case([1, 3, 9, 7])
def q_sum_of_depthwise(n):
    x = stem(n, 18, zero=11)
    y = n.pair(n.qconv(x, 0.0231, [18, 1, 3, 3], pads=[1, 1, 1, 1], group=18), 0.0197, 121)
    n.out(n.pair(n.op("Add", x, y), 0.0317, 89), n.pair(n.op("Relu", n.op("Add", y, y)), 0.0337, 3))


@case([1, 3, 12, 10])
def q_max_pool(n):
    x = stem(n, 18, zero=11)
    y = n.pair(n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.0231, 11)
    n.out(y, n.pair(n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 1]), 0.0331, 50))


@case([1, 3, 12, 10])
def q_max_pool_ceil(n):
    x = stem(n, 18, zero=11)
    n.out(n.pair(n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), 0.0231, 11))


@case([1, 3, 12, 10])
def q_average_pool(n):
    x = stem(n, 18, zero=11)
    n.out(n.pair(n.op("AveragePool", x, kernel_shape=[2, 3], strides=[2, 2]), 0.0173, 5))
    n.out(n.pair(n.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.0231, 11))


@case([1, 3, 12, 10])
def q_global_mean(n):
    x = stem(n, 35, zero=11)
    n.out(n.pair(n.op("GlobalAveragePool", x), 0.0131, 40), n.pair(n.op("GlobalAveragePool", x), 0.0231, 11))


@case([1, 3, 9, 7], 17)
def q_squeeze_and_excite(n):
    x = stem(n, 18)
    y = n.pair(n.op("GlobalAveragePool", x), 0.0091)
    y = n.pair(n.op("Relu", n.qconv(y, 0.0091, [5, 18, 1, 1])), 0.0061)
    y = n.pair(n.qconv(y, 0.0061, [18, 5, 1, 1]), 0.0301, 129)
    y = n.pair(n.op("HardSigmoid", y, alpha=1 / 6, beta=0.5), 1 / 255)
    x = n.pair(n.op("Mul", x, y), 0.0173)
    n.out(n.pair(n.qconv(x, 0.0173, [9, 18, 1, 1]), 0.0131, 120))


@case([1, 3, 9, 7], 17)
def q_sigmoid(n):
    x = n.pair(n.qconv(stem(n, 18), 0.0231, [9, 18, 1, 1]), 0.0331, 120)
    n.out(n.pair(n.op("Sigmoid", x), 1 / 255))


@case([1, 3, 9, 7], 17)
def q_silu(n):
    x = n.pair(n.qconv(stem(n, 18), 0.0231, [9, 18, 1, 1]), 0.0331, 120)
    n.out(n.pair(n.op("Mul", x, n.op("Sigmoid", x)), 0.0191, 15))
    n.out(n.pair(n.op("Mul", x, n.pair(n.op("Sigmoid", x), 1 / 256)), 0.0193, 17))


@case([1, 3, 9, 7], 17)
def q_hard_swish(n):
    x = n.pair(n.qconv(stem(n, 18), 0.0231, [17, 18, 1, 1]), 0.0331, 120)
    x = n.pair(n.op("HardSwish", x), 0.0171, 22)
    x = n.qconv(x, 0.0171, [17, 1, 3, 3], pads=[1, 1, 1, 1], group=17)
    n.out(n.pair(n.op("HardSwish", n.pair(x, 0.0291, 125)), 0.0151, 25))


@case([1, 3, 9, 7], 17)
def q_hard_swish_of_sums(n):
    x = n.pair(n.op("HardSwish", n.qconv(stem(n, 18), 0.0231, [17, 18, 1, 1])), 0.0171, 22)
    x = n.op("HardSwish", n.qconv(x, 0.0171, [17, 1, 3, 3], pads=[1, 1, 1, 1], group=17))
    n.out(n.pair(x, 0.0151, 25))


@case([1, 3, 12, 12], 17)
def q_pad(n):
    """Keras's border of zeros between two pairs of one scale."""
    x = n.pair(n.op("Pad", stem(n, 18, zero=11), n.const([0, 0, 0, 0, 0, 0, 1, 1], np.int64)), 0.0231, 11)
    x = n.qconv(x, 0.0231, [18, 1, 3, 3], strides=[2, 2], group=18)
    n.out(n.pair(x, 0.0213, 130))


@case([1, 3, 9, 7], 21)
def q_typed_data(n):
    """Bytes and integers in int32_data."""
    n.out(n.pair(n.qconv(stem(n, 18, zero=-7, kind=np.int8), 0.0231, [9, 18, 3, 3]), 0.0277, 113))
    kinds = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8, TensorProto.INT32: np.int32}
    for tensor in n.initializers:
        if tensor.data_type in kinds:
            tensor.int32_data.extend(np.frombuffer(tensor.raw_data, kinds[tensor.data_type]).tolist())
            tensor.ClearField("raw_data")


@case([1, 3, 9, 7])
def q_two_readers(n):
    """A rounded activation that a sum, a convolution and an output read."""
    x = stem(n, 18, zero=11)
    q = n.q(n.qconv(x, 0.0231, [18, 18, 3, 3], pads=[1, 1, 1, 1]), 0.0197, 121)
    a, b = n.dq(q, 0.0197, 121), n.dq(q, 0.0197, 121)
    n.out(a, n.pair(n.op("Add", b, x), 0.0317, 89), n.pair(n.qconv(b, 0.0197, [7, 18, 1, 1]), 0.0211, 93))


@case([1, 3, 9, 7])
def q_mixed(n):
    """A convolution in floats among those on bytes."""
    x = n.op("Relu", n.conv(stem(n, 18, zero=11), [18, 18, 1, 1]))
    n.out(n.pair(n.qconv(n.pair(x, 0.0197, 21), 0.0197, [7, 18, 1, 1]), 0.0211, 93))
