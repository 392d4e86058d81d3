"""Predict the speed of training with more workers than this machine has, from a model of one data-parallel step.

Every worker computes for ``step_seconds``. Then all workers average ``gradient_bytes`` in a ring all-reduce (Patarasuk
and Yuan 2009). Weak scaling is the time of a step with one worker divided by that with n. Inputs are the output of
scaling.py or flags:

    python tests/benchmarks/scaling.py > scaling.json
    python tests/benchmarks/cost_model.py --scaling scaling.json --model residual
    python tests/benchmarks/cost_model.py --step-seconds 0.22 0.02 --gradient-bytes 1200000

The assumptions are the defaults of the flags. Draws docs/benchmarks/scaling-model.png, prints a Markdown table to
standard error and one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from ingest import say, stop
from program import ROOT

WORKERS = (8, 16, 32, 64, 128, 256, 512)
SHOWN = (8, 64, 512)
GIGABITS = (1, 10, 100)
PRECISIONS = {"float32": 1.0, "half": 0.5}
"""Bytes sent per byte of float32 gradients."""
HOROVOD = (512, 0.90)
"""GPUs, and the published weak scaling of ResNet-101 and Inception V3 on them (Sergeev and Del Balso 2018)."""


def ring_seconds(workers: int, size: float, bandwidth: float, latency: float) -> tuple[float, float]:
    """Return the seconds that a ring all-reduce of ``size`` bytes spends on bandwidth and on latency.

    Each of n workers sends 2 (n - 1) messages of size / n. ``bandwidth`` is in bytes per second, ``latency`` in seconds
    per message.
    """
    messages = 2 * (workers - 1)
    return messages / workers * size / bandwidth, messages * latency


def straggler_seconds(workers: int, step_seconds: float, spread: float) -> float:
    """Return how much longer than the mean the slowest worker's step takes.

    Steps are normally distributed with a standard deviation of ``spread`` times their mean. The expected maximum of n
    is at most sqrt(2 ln n) standard deviations above the mean.
    """
    return spread * step_seconds * math.sqrt(2 * math.log(workers))


@dataclass(frozen=True)
class Step:
    """The parts of one step of many workers, in seconds."""

    compute: float
    bandwidth: float
    latency: float
    stragglers: float

    def efficiency(self, overlap: float = 0.0) -> float:
        """Return weak scaling from 0 to 1, if the all-reduce overlaps with a share ``overlap`` of the computation."""
        exposed = max(0.0, self.bandwidth + self.latency - overlap * self.compute)
        return self.compute / (self.compute + self.stragglers + exposed)

    def limit(self) -> str:
        """Return the name of the most expensive part."""
        parts = {"bandwidth": self.bandwidth, "latency": self.latency, "stragglers": self.stragglers}
        return max(parts, key=parts.get)


def predict(workers: int, step_seconds: float, size: float, gigabits: float, latency: float, spread: float) -> Step:
    """Predict the step of workers that average ``size`` bytes over links of ``gigabits`` (10^9 bit/s) in each
    direction."""
    bandwidth, waiting = ring_seconds(workers, size, gigabits * 1e9 / 8, latency)
    return Step(step_seconds, bandwidth, waiting, straggler_seconds(workers, step_seconds, spread))


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", type=Path, help="output of scaling.py: step times of one worker on one core")
    parser.add_argument("--step-seconds", type=float, nargs="+", default=[], metavar="S", help="more step times")
    parser.add_argument(
        "--gradient-bytes", type=float, metavar="N", help="bytes of float32 gradients (4 per weight of --model)"
    )
    parser.add_argument("--model", default="residual", help="network whose trainable weights count (residual)")
    parser.add_argument(
        "--latency",
        type=float,
        default=50e-6,
        metavar="S",
        help="latency of a message between neighbours, including software (50e-6: TCP in one data centre)",
    )
    parser.add_argument(
        "--spread",
        type=float,
        default=0.02,
        metavar="X",
        help="standard deviation of a worker's step as a share of its mean (0.02)",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=2 / 3,
        metavar="X",
        help="share of a step that can overlap with the all-reduce: the backward pass (2/3)",
    )
    parser.add_argument(
        "--picture", type=Path, default=ROOT / "docs" / "benchmarks" / "scaling-model.png", help="picture to write"
    )
    flags = parser.parse_args()
    if not flags.scaling and not flags.step_seconds:
        stop("expected --scaling or --step-seconds, got neither")
    return flags


def step_times(flags: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of a step by a name for them."""
    times = {}
    if flags.scaling:
        rows = json.loads(flags.scaling.read_text().splitlines()[-1])["results"]
        times = {
            f"{row['launcher']}, {row['size']} px, {1000 * row['step_seconds']:.0f} ms": row["step_seconds"]
            for row in rows
        }
    return times | {f"{1000 * seconds:g} ms": seconds for seconds in flags.step_seconds}


def gradient_bytes(model: str) -> int:
    """Return the bytes of a model's float32 gradients for two labels."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from cxrflow.training.models import build_model

    return 4 * sum(math.prod(weight.shape) for weight in build_model(model, 2, (128, 128)).trainable_weights)


def as_table(times: dict[str, float], size: float, flags: argparse.Namespace) -> str:
    lines = [
        f"\nWeak scaling without / with overlap, and what limits it; gradients of {size / 1e6:.2f} MB in float32\n",
        "| step of one worker | Gbit/s | gradients | "
        + " | ".join(f"{n} workers" for n in SHOWN)
        + f" | limit at {SHOWN[-1]} |",
        "| --- | ---: | --- |" + " ---: |" * len(SHOWN) + " --- |",
    ]
    for name, seconds in times.items():
        for gigabits in GIGABITS:
            for precision, share in PRECISIONS.items():
                steps = [predict(n, seconds, share * size, gigabits, flags.latency, flags.spread) for n in SHOWN]
                cells = " | ".join(f"{step.efficiency():.1%} / {step.efficiency(flags.overlap):.1%}" for step in steps)
                lines.append(f"| {name} | {gigabits} | {precision} | {cells} | {steps[-1].limit()} |")
    return "\n".join(lines)


def draw(times: dict[str, float], size: float, flags: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(GIGABITS), figsize=(13, 3.8), sharey=True, layout="constrained")
    # Markers differ too, for readers who do not see the colours.
    styles = [("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"), ("#cc79a7", "v"), ("#000000", "d")]
    for axis, gigabits in zip(axes, GIGABITS, strict=True):
        for (name, seconds), (color, marker) in zip(times.items(), styles * len(times), strict=False):
            for precision, line in zip(PRECISIONS, ("-", "--"), strict=True):
                efficiency = [
                    predict(
                        n, seconds, PRECISIONS[precision] * size, gigabits, flags.latency, flags.spread
                    ).efficiency()
                    for n in WORKERS
                ]
                axis.semilogx(
                    WORKERS,
                    efficiency,
                    line,
                    base=2,
                    color=color,
                    marker=marker,
                    markersize=4,
                    label=f"{name}, {precision}",
                )
        axis.plot(*HOROVOD, "*", color="#d55e00", markersize=12, label="Horovod's own, 512 GPUs")
        axis.set(title=f"{gigabits} Gbit/s", xlabel="workers", xticks=WORKERS, xticklabels=WORKERS, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="weak scaling, without overlap")
    axes[-1].legend(frameon=False, fontsize=7)
    figure.savefig(flags.picture, dpi=110)


def main() -> None:
    flags = parse_flags()
    times = step_times(flags)
    size = flags.gradient_bytes or gradient_bytes(flags.model)
    say(as_table(times, size, flags))
    draw(times, size, flags)
    found = [
        {
            "step": name,
            "gigabits": gigabits,
            "gradients": precision,
            "workers": n,
            "without_overlap": step.efficiency(),
            "with_overlap": step.efficiency(flags.overlap),
            "limit": step.limit(),
        }
        for name, seconds in times.items()
        for gigabits in GIGABITS
        for precision, share in PRECISIONS.items()
        for n in WORKERS
        for step in [predict(n, seconds, share * size, gigabits, flags.latency, flags.spread)]
    ]
    print(
        json.dumps(
            {
                "gradient_bytes": size,
                "latency": flags.latency,
                "spread": flags.spread,
                "overlap": flags.overlap,
                "predictions": found,
            }
        )
    )


if __name__ == "__main__":
    main()
