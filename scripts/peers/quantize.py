"""int8 by graft beside int8 by ONNX Runtime's quantize_static, from the same float files; prints a table in Markdown.

    quantize.py --graft target/release/graft --data DIR --weights DIR [--sets a,b] [--networks a,b] [--hard] [--again]

DIR of --data has a folder for each set, with train and test in it, and in these a folder for each class; DIR of --weights
the pretrained files named below. What is measured goes into target/peers/quantize.jsonl, one line for each quantizer of a
cell; a line that is there already is not made again, so that a stopped command goes on. Runs, networks and what they see
of the pictures stay in target/peers/quantize. Needs the Python packages of requirements-quantize.txt.

Both quantizers see the same calibration pictures, those that graft names, as the bytes that graft cropped. ONNX Runtime's
three methods are all tried and the one that is best on the *test* pictures stands for it, which flatters it; its seconds
are those of that one. Every file is evaluated in ONNX Runtime with exact kernels; graft's own engine answers too. P-values
are of McNemar's exact test, two-sided. A drop is in points of the share of right answers.

--hard takes networks whose channels were scaled up to 100 times apart without changing what they say (harden.py), checks
that, and compares graft's plain and automatic int8 with ONNX Runtime's MinMax.
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy
import onnxruntime
from harden import harden
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

TUNED = ["--recipe", "blocks", "--unfreeze", "3", "--epochs", "6", "--crop", "1"]
# What `graft train` is told, and the file of pretrained weights.
NETWORKS = {
    "mobilenet_v2": (["--model", "mobilenet_v2", *TUNED], "mobilenet_v2_1.0_224.safetensors"),
    "mobilenet_v2-0.35": (["--model", "mobilenet_v2", "--width", "0.35", *TUNED], "mobilenet_v2_0.35_224_notop.safetensors"),
    "resnet18": (["--model", "resnet18", "--recipe", "scratch", "--input", "128", "--epochs", "15"], None),
}
METHODS = ("MinMax", "Entropy", "Percentile")
# Plain and automatic, for --hard.
OPTIONS = {"graft": [], "graft min-max": ["--method", "min-max", "--repair", "none"]}
PICTURES = 200


class Cell:
    """A network trained on a set: its folder, its files, and the lines known of it."""

    def __init__(self, args, known, of, network, kind=""):
        self.args, self.known, self.set, self.network = args, known, of, network + kind
        self.root = args.data / of
        self.folder = args.work / "quantize" / f"{of}-{self.network}"
        self.run, self.float = self.folder / "run", self.folder / "float.onnx"
        classes = sorted(f.name for f in (self.root / "test").iterdir() if f.is_dir())
        self.files = [f for c in classes for f in sorted((self.root / "test" / c).glob("*.jpg"))]

    def graft(self, *command):
        environment = os.environ | {
            "GRAFT_CACHE": str(self.args.work / "quantize" / "cache"),
            "RAYON_NUM_THREADS": str(self.args.threads),
        }
        line = [self.args.graft, *command]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout

    def line(self, part, make, program=None):
        """Returns what is known of a part; where nothing is, or another program made it, makes it and writes it down."""
        key = (self.set, self.network, part)
        if key not in self.known or program not in (None, self.known[key].get("program")):
            self.known[key] = make()
            line = dict(zip(("set", "network", "part"), key)) | self.known[key]
            with open(self.args.work / "quantize.jsonl", "a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            shown = {k: v for k, v in line.items() if not isinstance(v, list)}
            print(shown, file=sys.stderr)
        return self.known[key]

    def train(self):
        if not (self.run / "run.json").exists():
            shutil.rmtree(self.run, ignore_errors=True)
            told, weights = NETWORKS[self.network]
            pretrained = ["--weights", self.args.weights / weights] if weights else []
            self.graft("train", self.root / "train", *told, *pretrained, "--validation", "0", "--out", self.run, "--json")
        self.export()

    def export(self):
        if not self.float.exists():
            self.graft("export", self.run, "--out", self.float)

    def predict(self, model, files, crops=None):
        """Returns graft's own answers, and saves what it saw of the pictures."""
        saving = ["--crops", crops] if crops else []
        return json.loads(self.graft("predict", model, *files, *saving, "--json"))

    def own(self, model):
        """Returns the labels and logits that graft's engine gives the test pictures, and sees to it that their crops are there."""
        crops = self.folder / "test"
        done = crops / f"{len(self.files) - 1:04}.png"
        found = self.predict(model, self.files, None if done.exists() else crops)
        return [a["label"] for a in found], numpy.array([a["logits"] for a in found], numpy.float32)

    def exact(self, model):
        """Returns the labels and logits that ONNX Runtime gives them, with exact kernels."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.args.threads
        # Without VNNI the u8 x s8 kernels saturate at 16 bits; this asks for exact ones.
        options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        crops = (read(self.folder / "test", i) for i in range(len(self.files)))
        logits = numpy.array([session.run(None, picture)[0][0] for picture in crops])
        labels = json.loads((self.run / "run.json").read_text())["labels"]
        return [labels[i] for i in logits.argmax(1)], logits

    def right(self, answers):
        return [a == f.parent.name for a, f in zip(answers, self.files, strict=True)]

    def measure_float(self):
        own, own_logits = self.own(self.float)
        theirs, logits = self.exact(self.float)
        apart = float(numpy.abs(own_logits - logits).max())
        return {"answers": theirs, "own": own, "logits_apart": apart, "top1": share(self.right(theirs))}

    def measure_graft(self, part):
        """Quantizes by graft; beside its int8 answers, says whether the changes that it lists are those found here."""
        out = self.folder / f"{part.replace(' ', '-')}.onnx"
        spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        before = spent()
        found = quantize_by_graft(self, OPTIONS[part], out)
        # Of the whole command, so with the evaluation that `seconds` may leave out.
        cpu = spent() - before
        (own, _), (theirs, _) = self.own(out), self.exact(out)
        line = {"answers": theirs, "own": own, "top1": share(self.right(theirs)), "own_top1": share(self.right(own))}
        line |= {"method": found["calibration"]["method"], "seconds": found["calibration"]["seconds"], "cpu_seconds": cpu}
        line |= {"pictures": found["calibration"]["pictures"], "program": digest(self.args.graft.read_bytes())}
        float_own = self.known[self.set, self.network, "float"]["own"]
        changed = [(f.resolve(), a, b) for f, a, b in zip(self.files, float_own, own, strict=True) if a != b]
        told = found["evaluation"]["candidates"][-1]
        listed = [(self.path(c["file"], "test").resolve(), c["float"], c["quantized"]) for c in told["changed"]]
        line |= {"changed": len(changed), "listed": len(listed), "listed_equals": sorted(changed) == sorted(listed)}
        line |= {"told_top1": told["measured"]["score"], "told_p": told["p_value"], "verdict": found.get("verdict")}
        line["own_p"] = mcnemar(self.right(own), self.right(float_own))
        return line

    def path(self, name, part):
        """Returns a picture that graft named, be it by its path or from the folder of the part on."""
        named = pathlib.Path(name)
        return named if named.exists() else self.root / part / named

    def measure_ort(self, method, pictures):
        crops = self.folder / "calibration"
        names = self.folder / "calibration.json"
        if not names.exists() or json.loads(names.read_text()) != pictures:
            shutil.rmtree(crops, ignore_errors=True)
            self.predict(self.float, [self.path(p, "train") for p in pictures], crops)
            names.write_text(json.dumps(pictures))
        out = self.folder / f"ort-{method}.onnx"
        start, busy = time.perf_counter(), time.process_time()
        quantize_by_ort(self.float, out, method, crops, len(pictures))
        seconds, cpu = time.perf_counter() - start, time.process_time() - busy
        theirs, _ = self.exact(out)
        line = {"answers": theirs, "top1": share(self.right(theirs)), "seconds": seconds, "cpu_seconds": cpu}
        return line | {"version": onnxruntime.__version__}


def read(crops, index):
    """Reads a picture that `graft predict --crops` saved, as the input of a network."""
    return {"image": numpy.asarray(Image.open(crops / f"{index:04}.png"))[None]}


def quantize_by_graft(cell, options, out):
    """Returns what `graft quantize --json` says of an int8 network whose parameters are chosen afresh."""
    told = [cell.run, "--data", cell.root / "train", "--test", cell.root / "test", "--calibration-pictures", str(PICTURES)]
    return json.loads(cell.graft("quantize", *told, "--numbers", "int8", "--afresh", *options, "--json", "-o", out))


class Reader(CalibrationDataReader):
    """Gives ONNX Runtime the cropped calibration pictures, a range of them at a time."""

    def __init__(self, crops, count):
        self.crops, self.count = crops, count
        self.set_range(0, count)

    def __len__(self):
        return self.count

    def set_range(self, start_index, end_index):
        self.left = iter(range(start_index, end_index))

    def get_next(self):
        i = next(self.left, None)
        return None if i is None else read(self.crops, i)


def quantize_by_ort(model, out, method, crops, count):
    # All activations of a range are in memory together; it has to divide the number of pictures.
    together = max(d for d in range(1, 11) if count % d == 0)
    options = {"CalibStridedMinMax": together}
    if method == "Percentile":
        # By itself its ranges are symmetric, which costs a point of accuracy with u8 activations.
        options["CalibTensorRangeSymmetric"] = False
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        prepared = pathlib.Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared)
        quantize_static(
            prepared,
            out,
            Reader(crops, count),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[method],
            extra_options=options,
        )


def share(claims):
    return float(sum(claims) / len(claims))


def mcnemar(a, b):
    """Returns the two-sided exact p-value of two lists of right and wrong answers to the same pictures."""
    only_a, only_b = (sum(x and not y for x, y in zip(*pair)) for pair in ((a, b), (b, a)))
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def digest(data):
    return hashlib.sha256(data).hexdigest()[:12]


def fill(cell, parts, methods):
    """Returns the lines of a cell: the float file's, those of graft, and those of ONNX Runtime."""
    before = cell.line("float", cell.measure_float)
    program = digest(cell.args.graft.read_bytes()) if cell.args.again else None
    graft = {p: cell.line(p, lambda p=p: cell.measure_graft(p), program) for p in parts}
    pictures = graft[parts[0]]["pictures"]
    # Other calibration pictures make other files.
    of = digest("\n".join(pictures).encode())
    ort = {m: cell.line(f"ort {m} {of}", lambda m=m: cell.measure_ort(m, pictures)) for m in methods}
    return before, graft, ort


def row(cell):
    before, graft, ort = fill(cell, ["graft"], METHODS)
    graft = graft["graft"]
    changed = lambda line: sum(a != b for a, b in zip(line["answers"], before["answers"], strict=True))
    method, best = max(ort.items(), key=lambda x: (x[1]["top1"], -changed(x[1])))
    float_right, graft_right, ort_right = (cell.right(x["answers"]) for x in (before, graft, best))
    drop = lambda line: f"{100 * (before['top1'] - line['top1']):.1f}"
    return [
        cell.set,
        cell.network,
        f"{100 * before['top1']:.1f}",
        f"{100 * graft['top1']:.1f} ({drop(graft)})",
        f"{100 * best['top1']:.1f} ({method}, {drop(best)})",
        f"{mcnemar(graft_right, ort_right):.3f}",
        f"{mcnemar(graft_right, float_right):.3f} / {mcnemar(ort_right, float_right):.3f}",
        " / ".join(f"{100 * changed(line) / len(cell.files):.1f}" for line in (graft, best)),
        f"{graft['seconds']:.0f} / {best['seconds']:.0f}",
    ]


HEADER = [
    "set",
    "network",
    "float, %",
    "graft int8, % (drop)",
    "ONNX Runtime int8, % (method, drop)",
    "p, graft against ONNX Runtime",
    "p against float, graft / ONNX Runtime",
    "classes changed, %, graft / ONNX Runtime",
    "s, graft / ONNX Runtime",
]


HARD = "-hard"


def hard_row(plain):
    """The row of a network that says what `plain` says, with channels scaled."""
    cell = Cell(plain.args, plain.known, plain.set, plain.network, HARD)
    if not (cell.run / "run.json").exists():
        harden(plain.run, cell.run)
    cell.export()

    def scaled():
        (_, easy), (_, hard) = plain.own(plain.float), cell.own(cell.float)
        return {"logits_apart": float(numpy.abs(easy - hard).max()), "same": share(easy.argmax(1) == hard.argmax(1))}

    found = cell.line("scaled", scaled)
    if found["logits_apart"] > HARD_TOLERANCE:
        raise SystemExit(f"{cell.folder}: expected the logits from before scaling, found {found['logits_apart']} between them")
    before, graft, ort = fill(cell, list(OPTIONS), ["MinMax"])
    lines = [before, graft["graft min-max"], graft["graft"], ort["MinMax"]]
    shares = [x["top1"] for x in lines] + [found["same"]]
    return [cell.set, plain.network, *(f"{100 * x:.1f}" for x in shares), f"{found['logits_apart']:.1e}"]


HARD_HEADER = [
    "set",
    "network, scaled",
    "float, %",
    "graft min-max without repair, %",
    "graft, %",
    "ONNX Runtime MinMax, %",
    "same class by scaling, %",
    "largest change of a logit by scaling",
]
HARD_TOLERANCE = 1e-2


def table(header, rows):
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |")


def agreement(cells):
    """Says whether graft's own engine and what graft says of its int8 files agree with what was found here."""
    kind, parts = (HARD, list(OPTIONS)) if cells[0].args.hard else ("", ["graft"])
    lines = [c.known[c.set, c.network + kind, part] for c in cells for part in parts]
    same = [a == b for x in lines for a, b in zip(x["answers"], x["own"], strict=True)]
    print(f"\ngraft's int8 files: same class in its own engine and in ONNX Runtime on {sum(same)} of {len(same)} pictures.")
    lines = [x for x in lines if "listed_equals" in x]
    lists = sum(x["listed_equals"] for x in lines)
    close = lambda x, a, b: abs(x[a] - x[b]) < 1e-6
    figures = sum(close(x, "told_p", "own_p") and close(x, "told_top1", "own_top1") for x in lines)
    print(f"Of {len(lines)} reports by graft, {lists} list the changed pictures found here, {figures} have the same share and p.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default="plantvillage15,coffee-leaf,coffee-symptom")
    parser.add_argument("--networks", default=None, help="default: all; with --hard mobilenet_v2,resnet18")
    parser.add_argument("--hard", action="store_true")
    parser.add_argument("--again", action="store_true", help="let graft quantize anew where another program did")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/peers"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "quantize.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(x["set"], x["network"], x["part"]): x for x in lines}
    networks = args.networks or ("mobilenet_v2,resnet18" if args.hard else ",".join(NETWORKS))
    cells = [Cell(args, known, s, n) for s in args.sets.split(",") for n in networks.split(",")]
    rows = []
    for cell in cells:
        cell.train()
        rows.append((hard_row if args.hard else row)(cell))
    table(HARD_HEADER if args.hard else HEADER, rows)
    agreement(cells)


if __name__ == "__main__":
    main()
