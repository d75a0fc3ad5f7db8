"""Accuracy and time of transfer learning, graft beside PyTorch, over several seeds; prints a table in Markdown.

    accuracy.py --graft target/release/graft --data DIR --weights FILE [--sets a,b] [--recipes head,full] [--seeds 5]

DIR has a folder for each set, with train and test in it. Every line of what the two programs say goes into
target/peers/accuracy.jsonl; a run that is there already is not done again, so that a stopped command goes on. Needs the
Python packages of requirements-transfer.txt.
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

EPOCHS = {"head": 10, "blocks": 20, "full": 20, "scratch": 60}


def graft(args, root, recipe, seed, epochs):
    run = args.work / f"run-{root.name}-{recipe}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    # Each run computes its features itself, so that its time is that of a first one.
    cache = args.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    train = [args.graft, "train", root / "train", "--recipe", recipe, "--seed", str(seed), "--out", run, "--json"]
    train += ["--model", "mobilenet_v2"]
    if recipe != "scratch":
        train += ["--weights", args.weights]
    if recipe != "head":
        train += ["--epochs", str(epochs), "--validation", "0"]
    environment = {"GRAFT_CACHE": str(cache), "RAYON_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds = time.perf_counter() - start
    evaluate = [args.graft, "evaluate", run, "--data", root / "test", "--json"]
    found = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
    shutil.rmtree(run)
    return {"version": "graft", "top1": found["top1"], "seconds": seconds}


def pytorch(args, root, recipe, seed, epochs):
    script = pathlib.Path(__file__).with_name("transfer.py")
    command = [sys.executable, script, recipe, root, args.weights, str(seed), str(epochs), str(args.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


PROGRAMS = {"graft": graft, "PyTorch": pytorch}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default="plantvillage15,coffee-leaf,coffee-symptom")
    parser.add_argument("--recipes", default="head,full")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/peers"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "accuracy.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(x["program"], x["set"], x["recipe"], x["seed"]): x for x in lines}
    cells = [(s, r) for s in args.sets.split(",") for r in args.recipes.split(",")]
    for seed in range(args.seeds):
        for name, recipe in cells:
            for program, run in PROGRAMS.items():
                key = (program, name, recipe, seed)
                # PyTorch's user has no recipe that keeps activations.
                if key in known or (program == "PyTorch" and recipe == "blocks"):
                    continue
                found = run(args, args.data / name, recipe, seed, EPOCHS[recipe])
                known[key] = dict(zip(("program", "set", "recipe", "seed"), key)) | found
                with open(path, "a", encoding="utf-8") as out:
                    out.write(json.dumps(known[key]) + "\n")
                print(known[key], file=sys.stderr)
    print("| set, recipe | " + " | ".join(f"{p}: top-1 % (seeds), s" for p in PROGRAMS) + " |")
    print("|---" * (1 + len(PROGRAMS)) + "|")
    for name, recipe in cells:
        row = [f"{name}, {recipe}"]
        for program in PROGRAMS:
            of = [x for (p, s, r, _), x in known.items() if (p, s, r) == (program, name, recipe)]
            if not of:
                row.append("–")
                continue
            top1 = [100 * x["top1"] for x in of]
            spread = f" ± {statistics.stdev(top1):.1f}" if len(of) > 1 else ""
            seconds = statistics.median(x["seconds"] for x in of)
            row.append(f"{statistics.mean(top1):.1f}{spread} ({len(of)}), {seconds:.0f}")
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
