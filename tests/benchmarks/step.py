"""Measure one training step and one scoring pass on one core, on both backends, against the core's sgemm rate.

The default network trains on a batch of 32 images in memory, in a process for each backend, instruction set and way of
setting up the process: ``now`` is what workers do; ``plain`` leaves the framework and the C library as they come. The
limit is the network's multiply-adds at the rate at which torch multiplies float32 matrices on the same core.

Rounds take turns over all. Figures are medians of CPU milliseconds (user and system) an image. For example:

    python tests/benchmarks/step.py --rounds 3
    python tests/benchmarks/step.py --sizes 224 --isas AVX2 --rounds 1

``AVX2`` and ``AVX512`` set ONEDNN_MAX_CPU_ISA and, for what torch does itself, ATEN_CPU_CAPABILITY and
MKL_ENABLE_INSTRUCTIONS; they emulate such a processor on one that can do more.

Prints a Markdown table to standard error and one line of JSON to standard output. Exit status: 0; 1 if a goal is
missed; 2 if a process failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from feed import finish
from ingest import say, stop

BACKENDS = ("tensorflow", "torch")
ISAS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "AVX512": {},
}
SET_UPS = ("now", "plain")
SIZES = (128, 224)
BATCH = 32
WARM_UP, STEPS = 4, 12
RATIO_GOAL, LIMIT_GOAL = 1.15, 0.55


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each process (3)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="height and width (128 and 224)")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="backends (both)")
    parser.add_argument("--isas", nargs="+", choices=ISAS, default=list(ISAS), help="instruction sets (both)")
    parser.add_argument("--set-ups", nargs="+", choices=SET_UPS, default=list(SET_UPS), help="(both)")
    parser.add_argument("--model", default="residual", help="as train.py's --model (residual)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.rounds < 1:
        stop(f"--rounds: expected at least 1, got {flags.rounds}")
    return flags


def cpu_seconds() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def measure(model: str, size: int, backend: str, set_up: str) -> dict:
    """Run in the process of one turn: train and score; returns milliseconds an image and multiply-adds."""
    from cxrflow.base.framework_process import prepare_process

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if set_up == "now":
        prepare_process(backend, 1)
    else:
        os.environ.update(KERAS_BACKEND=backend, OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="2")
    import keras
    import numpy as np

    from cxrflow.base.config import TrainConfig
    from cxrflow.distributed.worker import Worker
    from cxrflow.training.keras_patches import hide_tensorflow, with_torch_layers
    from cxrflow.training.models import build_model
    from cxrflow.training.optimizer import build_optimizer

    hide_tensorflow()
    network = build_model(model, 2, (size, size))
    trained = with_torch_layers(network)
    trained.compile(
        optimizer=build_optimizer(TrainConfig(table="t", run="r"), Worker(), 100),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    trained.optimizer.build(trained.trainable_variables)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (BATCH, size, size, 1), np.uint8)
    targets = np.eye(2, dtype=np.float32)[random.integers(0, 2, BATCH)]
    weights = np.ones(BATCH, np.float32)

    def train() -> None:
        float(trained.train_on_batch(pixels, targets, weights, return_dict=True)["loss"])

    def score() -> None:
        np.asarray(trained.predict_on_batch(pixels))

    result = {}
    for name, function in (("train", train), ("score", score)):
        for _ in range(WARM_UP):
            function()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        user, system = cpu_seconds()
        for _ in range(STEPS):
            function()
        user, system = (after - before for after, before in zip(cpu_seconds(), (user, system), strict=True))
        images = STEPS * BATCH
        result[name] = 1000 * (user + system) / images
        result[f"{name}_system"] = 1000 * system / images
        result[f"{name}_faults"] = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS
    return {**result, "multiply_adds": multiply_adds(network), "peak_mb": peak_megabytes()}


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def multiply_adds(network) -> int:
    """Of all convolutions and dense layers, for one image forward."""
    import math

    from cxrflow.training.layer_walk import walk_layers

    total = 0
    for layer in walk_layers(network):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            total += math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1])
    return total


def measure_sgemm() -> dict:
    """Run in the process of one turn: the rate of one core at float32 matrices of 1,024 x 1,024."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    rates = []
    for _ in range(30):
        started = time.process_time()
        torch.mm(a, b)
        rates.append(2 * 1024**3 / (time.process_time() - started) / 1e9)
    return {"gflops": statistics.median(rates)}


def turn(arguments: dict, isa: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **ISAS[isa]},
    )
    if done.returncode:
        stop(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    flags = parse_flags()
    if flags.worker:
        arguments = json.loads(flags.worker)
        print(json.dumps(measure(**arguments) if arguments else measure_sgemm()))
        return
    cases = list(itertools.product(flags.sizes, flags.isas, flags.backends, flags.set_ups))
    turns: dict[tuple, list[dict]] = {case: [] for case in cases}
    rates: dict[str, list[float]] = {isa: [] for isa in flags.isas}
    for number in range(flags.rounds):
        for isa in flags.isas:
            rates[isa].append(turn({}, isa)["gflops"])
        for size, isa, backend, set_up in cases:
            arguments = {"model": flags.model, "size": size, "backend": backend, "set_up": set_up}
            turns[size, isa, backend, set_up].append(turn(arguments, isa))
            say(f"round {number + 1}: {size} px, {isa}, {backend}, {set_up}: {turns[size, isa, backend, set_up][-1]}")
    middle = {
        case: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for case, found in turns.items()
    }
    peak = {isa: statistics.median(found) for isa, found in rates.items()}
    say("| px | instructions | backend | set-up | train | system | faults | share of peak | score | peak MB |")
    say("| ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    shares = {}
    for (size, isa, backend, set_up), found in middle.items():
        # A training step computes each product three times: forward, and the gradients of input and weights.
        least = 3 * 2 * found["multiply_adds"] / peak[isa] / 1e6
        shares[size, isa, backend, set_up] = least / found["train"]
        say(
            f"| {size} | {isa} ({peak[isa]:.0f} GFLOP/s) | {backend} | {set_up} | {found['train']:.2f} | "
            f"{found['train_system']:.2f} | {found['train_faults']:.0f} | {least / found['train']:.2f} | "
            f"{found['score']:.2f} | {found['peak_mb']:.0f} |"
        )
    goals = []
    for size, isa in itertools.product(flags.sizes, flags.isas):
        if "now" not in flags.set_ups or len(flags.backends) < 2:
            continue
        ratio = middle[size, isa, "tensorflow", "now"]["train"] / middle[size, isa, "torch", "now"]["train"]
        best = max(shares[size, isa, backend, "now"] for backend in BACKENDS)
        goals += [
            goal(f"TensorFlow / torch, {size} px, {isa}", f"at most {RATIO_GOAL}", ratio, ratio <= RATIO_GOAL),
            goal(f"limit / the better of both, {size} px, {isa}", f"at least {LIMIT_GOAL}", best, best >= LIMIT_GOAL),
        ]
    figures = {" ".join(map(str, case)): {**found, "share": shares[case]} for case, found in middle.items()}
    finish({"gflops": peak, "ms_per_image": figures}, goals)


def goal(name: str, limit: str, reached: float, met: bool) -> dict:
    return {"goal": name, "limit": limit, "reached": reached, "met": met, "counts": True}


if __name__ == "__main__":
    main()
