"""Times one engine on one network, alone in its process, and prints one line of JSON; run by `cargo xtask peers`.

    peer.py ENGINE MODEL THREADS SECONDS [--input FILE] [--output FILE]

MODEL is an .onnx file of models.py; an engine with a format of its own reads the file of that name beside it. FILE holds
raw little-endian f32. Every engine gets one stream, THREADS threads inside one picture, float arithmetic in f32 (no
silent bf16) and warm-up runs before the clock counts.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np

SHAPE = (1, 3, 224, 224)
WARM_UP_RUNS = 5
LEAST_RUNS = 10


def main():
    arguments = argparse.ArgumentParser(description="Times one engine on one network.")
    arguments.add_argument("engine", choices=sorted(ENGINES))
    arguments.add_argument("model", type=pathlib.Path)
    arguments.add_argument("threads", type=int)
    arguments.add_argument("seconds", type=float)
    arguments.add_argument("--input", type=pathlib.Path, help="the picture; default: input.f32 beside MODEL")
    arguments.add_argument("--output", type=pathlib.Path, help="where the answer goes")
    given = arguments.parse_args()
    if not (given.threads >= 1 and given.seconds > 0):
        sys.exit(f"error: expected positive THREADS and SECONDS, found {given.threads} and {given.seconds}")

    start = ENGINES[given.engine]
    picture = picture_of(given.input or given.model.with_name("input.f32"))
    before = memory_mb("VmRSS")
    clock = time.perf_counter()
    infer, version = start(given.model, given.threads, picture)
    load_ms = (time.perf_counter() - clock) * 1e3
    clock = time.perf_counter()
    answer = infer()
    first_ms = (time.perf_counter() - clock) * 1e3
    answer = np.array(answer, np.float32).ravel()
    times = time_runs(infer, given.seconds)
    peak = memory_mb("VmHWM")
    if given.output:
        answer.astype("<f4").tofile(given.output)
    line = {
        "engine": given.engine,
        "version": version,
        "threads": given.threads,
        "min_ms": times[0],
        "median_ms": times[len(times) // 2],
        "p95_ms": times[len(times) * 95 // 100],
        "first_ms": first_ms,
        "load_ms": load_ms,
        # Python and the imported engine, before the model: what of the peak is not the model's.
        "rss_before_load_mb": before,
        "peak_rss_mb": peak,
        "runs": len(times),
        "output": str(given.output) if given.output else None,
        "first_values": [float(value) for value in answer[:4]],
    }
    print(json.dumps(line))


def time_runs(infer, seconds):
    """Returns the times of at least LEAST_RUNS runs, in milliseconds, fastest first."""
    for _ in range(WARM_UP_RUNS):
        infer()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or time.perf_counter() < end:
        clock = time.perf_counter()
        infer()
        times.append((time.perf_counter() - clock) * 1e3)
    return sorted(times)


def picture_of(file):
    try:
        values = np.fromfile(file, "<f4")
    except OSError as error:
        sys.exit(f"error: expected a picture in {file}, found {error}; make it with models.py")
    if values.size != np.prod(SHAPE):
        sys.exit(f"error: {file}: expected {np.prod(SHAPE)} values for a picture of {list(SHAPE)}, found {values.size}")
    return values.reshape(SHAPE)


def memory_mb(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return None


# Each imports its engine before the clock starts, and returns a function that runs the picture once, and a version.


def onnxruntime():
    import onnxruntime

    def start(model, threads, picture):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # `session.x64quantprecision` stays at its default: where the processor lacks VNNI, that is the faster kernel,
        # which saturates at 16 bits; where it has VNNI, both are exact and the same.
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, picture)
        binding.bind_output(session.get_outputs()[0].name, "cpu")

        def infer():
            session.run_with_iobinding(binding)
            return LazyArray(lambda: binding.copy_outputs_to_cpu()[0])

        return infer, onnxruntime.__version__

    return start


def openvino():
    import openvino

    def start(model, threads, picture):
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(str(model), "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(picture, shared_memory=True))

        def infer():
            request.infer()
            return LazyArray(lambda: request.get_output_tensor(0).data)

        return infer, openvino.__version__.split("-")[0]

    return start


def ncnn():
    # Its threads are to spin between layers, as ONNX Runtime's do; asleep, two of them were no faster than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")
    import ncnn

    def start(model, threads, picture):
        net = ncnn.Net()
        net.opt.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, False)
        read(net.load_param, own_file(model, ".ncnn.param"))
        read(net.load_model, own_file(model, ".ncnn.bin"))
        inputs, outputs = net.input_names()[0], net.output_names()[0]
        image = ncnn.Mat(picture[0])

        def infer():
            extractor = net.create_extractor()
            extractor.input(inputs, image)
            code, answer = extractor.extract(outputs)
            if code != 0:
                sys.exit(f"error: expected ncnn to run {model}, found its code {code}")
            return answer

        return infer, ncnn.__version__

    def read(load, file):
        if load(str(file)) != 0:
            sys.exit(f"error: expected ncnn to read {file}, found that it cannot; make it anew with models.py")

    return start


def litert():
    import importlib.metadata

    from ai_edge_litert.interpreter import Interpreter

    def start(model, threads, picture):
        # XNNPACK is on by default.
        interpreter = Interpreter(str(own_file(model, ".tflite")), num_threads=threads)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
        outputs = interpreter.get_output_details()[0]["index"]

        def infer():
            interpreter.invoke()
            return LazyArray(lambda: interpreter.get_tensor(outputs))

        return infer, importlib.metadata.version("ai-edge-litert")

    return start


class LazyArray:
    """An answer that is copied out of the engine only if somebody looks, so that no copy is timed."""

    def __init__(self, fetch):
        self.fetch = fetch

    def __array__(self, dtype=None, copy=None):
        return np.array(self.fetch(), dtype)


def own_file(model, suffix):
    file = model.with_suffix(suffix)
    if not file.exists():
        sys.exit(f"error: expected {file}, found no such file; make it with models.py")
    return file


ENGINES = {function.__name__: function for function in (onnxruntime, openvino, ncnn, litert)}
if __name__ == "__main__":
    # Loads only the engine that is asked for; the others would count in its memory.
    asked = sys.argv[1] if len(sys.argv) > 1 else None
    if asked in ENGINES:
        ENGINES[asked] = ENGINES[asked]()
    main()
