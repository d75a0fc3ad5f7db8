#!/usr/bin/env python3
"""The field loop on real pictures: what 50 labels of the field are worth, chosen by the device and at random.

A model of one set goes to a graftd, which sees the pictures of another set and keeps those that it is unsure of. They are
pulled, labelled through the HTTP interface of the page of `graft label`, and the head is fitted anew, quantized and flashed.
Both models answer a test set that neither has seen, as the int8 files that are on the device. Needs no Python package.

    python3 scripts/field/loop.py --graft target/release/graft --graftd target/release/graftd --data ../shared/data \\
        --weights ../shared/weights/mobilenet_v2_1.0_224.safetensors --seeds 5
"""

import argparse
import csv
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

LAB = "coffee-symptom"
FIELD = "coffee-leaf"
# The two sets call it differently.
RENAMED = {"healthy": "health"}


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


class Graftd:
    """A device of its own folder, reached by a socket."""

    def __init__(self, program, folder, key, settings):
        folder.mkdir(parents=True)
        config = folder / "graftd.toml"
        config.write_text(
            f'name = "bed"\nroot = "disk"\nlisten = ["unix:port"]\ntrusted_keys = ["{key}"]\n{settings}'
        )
        self.process = subprocess.Popen(["graftd", "run", "--config", config], executable=program, stderr=subprocess.DEVNULL)
        self.address = f"unix:{folder / 'port'}"
        while not (folder / "port").exists():
            if self.process.poll() is not None:
                sys.exit(f"{program} ended with {self.process.returncode} before it listened")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def label(graft, field, run_folder, truth, count, chosen):
    """Labels `count` pictures through the page's interface: those it shows, or those of `chosen`."""
    page = subprocess.Popen(
        [graft, "label", field, "--run", run_folder, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        url = json.loads(page.stdout.readline())["url"]
        base, token = url.split("/?token=")

        def ask(path, body=None):
            request = urllib.request.Request(base + path, headers={"X-Graft-Token": token})
            if body is not None:
                request.data = json.dumps(body).encode()
                request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)

        labelled = []
        if chosen is None:
            cards = ask("/api/state?who=loop&count=1")["next"]
        else:
            cards = [ask(f"/api/card/{index}?who=loop") for index in chosen]
        while cards and len(labelled) < count:
            card = cards.pop(0)
            name = truth[Path(card["file"]).stem]
            click = {"who": "loop", "nonce": str(len(labelled)), "picture": card["picture"], "seen": card["seen"], "label": name}
            answer = ask("/api/label", click)
            labelled.append((card["answer"]["label"] if card["answer"] else None, name))
            if chosen is None:
                cards = answer["next"]
        return labelled
    finally:
        page.terminate()
        page.wait()



def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=Path, required=True)
    parser.add_argument("--graftd", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--recipe", default="head")
    parser.add_argument("--out", type=Path, default=Path("target/field"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    graft, out = args.graft.resolve(), args.out.resolve()
    lab, field = (args.data.resolve() / name for name in (LAB, FIELD))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ.setdefault("GRAFT_CACHE", str(out / "cache"))
    tell = lambda text: print(text, file=sys.stderr, flush=True)

    # The field's test pictures, by the names of the lab's classes.
    test = out / "test.csv"
    with test.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for picture in sorted((field / "test").glob("*/*.jpg")):
            rows.writerow([picture, RENAMED.get(picture.parent.name, picture.parent.name)])

    run(graft, "key", "new", "--out", out / "key")
    key = (out / "key.pub").read_text().strip()

    def ship(run_folder, name):
        """Quantizes and packs; returns the bundle and what the int8 file is right on."""
        onnx, bundle = out / f"{name}.onnx", out / f"{name}.graft"
        run(graft, "quantize", run_folder, "--data", lab / "train", "--test", lab / "test", "--numbers", "int8", "--out", onnx)
        run(graft, "pack", onnx, "--key", out / "key", "--golden", lab / "test", "--calibrate", lab / "test", "--out", bundle)
        right = lambda data: json.loads(run(graft, "evaluate", onnx, "--data", data, "--json"))["top1"]
        return bundle, right(test), right(lab / "test")

    first = out / "first"
    run(graft, "train", lab / "train", "--model", "mobilenet_v2", "--weights", args.weights, "--recipe", args.recipe, "--out", first)
    bundle, before, before_lab = ship(first, "first")
    tell(f"before: {100 * before:.1f} % of the field's test pictures, {100 * before_lab:.1f} % of the lab's")

    pictures = sorted((field / "train").glob("*/*.jpg"))
    results = []
    for seed in range(args.seeds):
        # Another season: each time the device sees other pictures, four fifths of all.
        order = random.Random(seed).sample(pictures, len(pictures) * 4 // 5)
        for chooser, keeps in (("device", "unsure"), ("random", "keep")):
            at = out / f"{chooser}-{seed}"
            settings = f'pictures = "{keeps}"\npictures_per_hour = 100000\n'
            with Graftd(args.graftd.absolute(), at / "device", key, settings) as device:
                flashed = json.loads(run(graft, "flash", bundle, "--device", device.address, "--json"))
                for i in range(0, len(order), 64):
                    run(graft, "device", "classify", *order[i : i + 64], "--device", device.address)
                pulled = json.loads(run(graft, "pull", "--device", device.address, "--out", at / "field", "--json"))
                truth = truth_of(at / "field", order)
                chosen = None
                if chooser == "random":
                    chosen = random.Random(1000 + seed).sample(range(len(truth)), args.labels)
                labelled = label(graft, at / "field", first, truth, args.labels, chosen)
                start = time.time()
                told = json.loads(
                    run(graft, "retrain", first, "--add", at / "field", "--test", test, "--before", lab / "test",
                        "--out", at / "run", "--force", "--json")
                )
                seconds = time.time() - start
                second, after, after_lab = ship(at / "run", f"{chooser}-{seed}-second")
                delta = json.loads(run(graft, "flash", second, "--device", device.address, "--json"))
            row = {
                "seed": seed, "chooser": chooser, "kept": pulled["kept"], "seen": len(order), "labels": len(labelled),
                "device_was_wrong": sum(a != b for a, b in labelled), "before": before, "after": after,
                "before_lab": before_lab, "after_lab": after_lab, "after_f32": told["compared"]["new"]["score"],
                "times": told["times"], "strength": told["strength"], "retrain_seconds": seconds,
                "flash_bytes": flashed["wire_bytes"], "delta_bytes": delta["wire_bytes"],
            }
            results.append(row)
            tell(
                f"seed {seed}, {chooser}: {row['kept']} of {row['seen']} kept, {row['labels']} labels "
                f"({row['device_was_wrong']} of them corrected), field {100 * before:.1f} -> {100 * after:.1f} %, "
                f"lab {100 * before_lab:.1f} -> {100 * after_lab:.1f} %, C {row['strength']}, times {row['times']}, "
                f"{seconds:.1f} s, {row['delta_bytes']} of {row['flash_bytes']} bytes"
            )
    (out / "loop.json").write_text(json.dumps(results, indent=1))
    summary(results, before, before_lab)
    if args.json:
        print(json.dumps(results, indent=1))


def truth_of(field, order):
    """Of each picture that was pulled its true class: field.csv tells which file it was on the device."""
    classes = {}
    for path in order:
        # Names are unique within the set only with their class.
        classes.setdefault(path.name, set()).add(RENAMED.get(path.parent.name, path.parent.name))
    truth = {}
    with (field / "field.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (name,) = classes[row["source"].split("/")[-1]]
            truth[Path(row["file"]).stem] = name
    return truth


def summary(results, before, before_lab):
    print("| 50 labels chosen by | field's test pictures, % | s.d. | lab's test pictures, % | s.d. |")
    print("|---|---|---|---|---|")
    print(f"| none | {100 * before:.1f} | | {100 * before_lab:.1f} | |")
    for chooser in ("random", "device"):
        rows = [r for r in results if r["chooser"] == chooser]
        cells = []
        for column in ("after", "after_lab"):
            values = [100 * r[column] for r in rows]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells += [f"{statistics.mean(values):.1f}", f"{spread:.1f}"]
        print(f"| {chooser} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
