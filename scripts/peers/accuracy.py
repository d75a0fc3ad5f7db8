"""Accuracy and time of transfer learning, graft beside PyTorch, over several seeds; prints a table in Markdown.

    accuracy.py --graft target/release/graft --data DIR --weights FILE [--sets a,b] [--recipes head,full] [--seeds 5]
        [--programs graft,PyTorch] [--device cuda] [--jobs 1] [--seconds S]

DIR has a folder for each set, with train and test in it; `a@5` is set a with 5 pictures of each class to learn from, drawn by
the seed. Every line of what the two programs say goes into target/peers/accuracy.jsonl; a run that is there already is not
done again, so that a stopped command goes on. With --jobs several runs go at once, and their seconds say little; after
--seconds no further one begins. Needs the Python packages of requirements-transfer.txt.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

EPOCHS = {"head": 10, "blocks": 20, "full": 20, "scratch": 60}


def part_of(args, name, seed):
    """Returns the folder of a set; of `a@5` one with 5 pictures of each class in train."""
    of, _, count = name.partition("@")
    if not count:
        return args.data / of
    root = args.work / f"set-{name}-{seed}"
    if not (root / "test").exists():
        shutil.rmtree(root, ignore_errors=True)
        for folder in sorted(f for f in (args.data / of / "train").iterdir() if f.is_dir()):
            files = sorted(folder.iterdir())
            for file in random.Random(f"{seed} {folder.name}").sample(files, min(int(count), len(files))):
                (root / "train" / folder.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, root / "train" / folder.name)
        (root / "test").symlink_to((args.data / of / "test").resolve())
    return root


def graft(args, root, recipe, seed, epochs):
    # Each run computes its features itself, so that its time is that of a first one.
    run, cache = (args.work / f"{kind}-{root.name}-{recipe}-{seed}" for kind in ("run", "cache"))
    for folder in (run, cache):
        shutil.rmtree(folder, ignore_errors=True)
    train = [args.graft, "train", root / "train", "--recipe", recipe, "--seed", str(seed), "--out", run, "--json"]
    train += ["--model", "mobilenet_v2"]
    if recipe != "scratch":
        train += ["--weights", args.weights]
    if recipe != "head":
        train += ["--epochs", str(epochs), "--validation", "0"]
        train += ["--device", "cuda", "--precision", "tf32"] if args.device == "cuda" else []
        train += args.options.split() if recipe in ("blocks", "full") else []
    environment = os.environ | {"GRAFT_CACHE": str(cache), "RAYON_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds = time.perf_counter() - start
    evaluate = [args.graft, "evaluate", run, "--data", root / "test", "--json"]
    found = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
    for folder in (run, cache):
        shutil.rmtree(folder)
    return {"version": "graft", "top1": found["top1"], "seconds": seconds}


def pytorch(args, root, recipe, seed, epochs):
    script = pathlib.Path(__file__).with_name("transfer.py")
    command = [sys.executable, script, recipe, root, args.weights, str(seed), str(epochs), str(args.threads), args.device]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


PROGRAMS = {"graft": graft, "PyTorch": pytorch}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graft", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", type=pathlib.Path, required=True)
    parser.add_argument("--sets", default="plantvillage15,coffee-leaf,coffee-symptom")
    parser.add_argument("--recipes", default="head,full")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--options", default="", help="what `graft train` is told besides, for the recipes blocks and full")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("target/peers"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / "accuracy.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(x["program"], x["set"], x["recipe"], x["seed"]): x for x in lines}
    cells = [(s, r) for s in args.sets.split(",") for r in args.recipes.split(",")]
    end = time.monotonic() + args.seconds

    def make(key):
        program, name, recipe, seed = key
        if time.monotonic() > end:
            return
        try:
            found = PROGRAMS[program](args, roots[name, seed], recipe, seed, EPOCHS[recipe])
        except subprocess.CalledProcessError as failed:
            print(key, failed, (failed.stderr or "")[-1000:], file=sys.stderr, flush=True)
            return
        known[key] = dict(zip(("program", "set", "recipe", "seed"), key)) | found
        with open(path, "a", encoding="utf-8") as out:
            out.write(json.dumps(known[key]) + "\n")
        print(known[key], file=sys.stderr, flush=True)

    keys = [(p, s, r, seed) for seed in range(args.seeds) for s, r in cells for p in args.programs.split(",")]
    # PyTorch's user has no recipe that keeps activations.
    wanted = [k for k in keys if k not in known and (k[0], k[2]) != ("PyTorch", "blocks")]
    roots = {(name, seed): part_of(args, name, seed) for _, name, _, seed in wanted}
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(make, wanted))
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
