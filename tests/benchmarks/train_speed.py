"""Measure what the feed costs training: images per second from the table, compared with one batch in memory.

The residual model trains on the 5,216 real files at 128 x 128, in batches of 32 with two threads, on TensorFlow and on
torch in a process each. The table is ingested once below build/, unless --table names one.

Rounds take turns: TensorFlow from the feed, from memory, torch from the feed, from memory; in every second round memory
comes first. From the feed means whole epochs, and the time includes opening it. For example:

    python tests/benchmarks/train_speed.py --rounds 5
    python tests/benchmarks/train_speed.py --rounds 2 --steps 40 --backends torch

Prints the result table to standard error and one line of JSON to standard output. Exit status: 0; 1 if a goal is
missed; 2 if something is missing that the benchmark needs, or a process failed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from feed import IMAGES, finish
from feed_tables import ingest
from ingest import DATA, say, stop, take_two_cores
from program import ROOT, Program, busy_seconds

SIZE = 128
TABLE = ROOT / "build" / f"train-table-{SIZE}"
BACKENDS = ("tensorflow", "torch")
SOURCES = ("feed", "memory")
GOAL = 0.97
LARGEST_RATIO = 1.05
"""The same steps from memory have no feed, so the feed cannot be faster. A larger ratio means that the measurement
failed, and counts as a missed goal."""
WARM_UP_STEPS = 5


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns per backend and source (5)")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="steps per turn (an epoch)")
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS), help="Keras' backends (both)"
    )
    parser.add_argument("--table", type=Path, help=f"cxrflow table with a split train (makes {TABLE})")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder with {IMAGES} (CXRFLOW_BENCHMARK_DATA, or {DATA})"
    )
    flags = parser.parse_args()
    if flags.rounds < 1 or flags.steps < 0:
        stop(f"--rounds, --steps: expected at least 1 and 0, got {flags.rounds} and {flags.steps}")
    if flags.table and not (flags.table / "manifest.json").exists():
        stop(f"--table: expected a table that ingest wrote, found no {flags.table / 'manifest.json'}")
    if not flags.table and not TABLE.exists() and not (flags.data / IMAGES).is_dir():
        stop(f"--data: expected the folder {IMAGES}, found no {flags.data / IMAGES}")
    return flags


def measure(flags: argparse.Namespace, table: Path, scratch: Path) -> dict[str, dict[str, list[dict]]]:
    """Return the turns of each backend and source."""
    programs: list[Program] = []
    turns = {backend: {source: [] for source in SOURCES} for backend in flags.backends}
    try:
        for backend in flags.backends:
            say(f"starting {backend}")
            programs.append(
                Program(
                    backend,
                    [sys.executable, str(Path(__file__).with_name("train_keras.py")), "--backend", backend],
                    scratch,
                )
            )
            for source in SOURCES:
                programs[-1].ask(f"run '{table}' {WARM_UP_STEPS} {source}")
        for number in range(1, flags.rounds + 1):
            for program in programs:
                for source in SOURCES[:: 1 if number % 2 else -1]:
                    turn = take_turn(program, table, flags.steps, source)
                    turns[program.name][source].append(turn)
                    say(f"round {number} of {flags.rounds}, {program.name}, {source}: {turn['rate']:.1f} images/s")
        return turns
    finally:
        for program in programs:
            program.close()


def take_turn(program: Program, table: Path, steps: int, source: str) -> dict:
    """Return images per second, milliseconds of CPU per image, and the number of cores that other processes used."""
    busy, own = busy_seconds(), program.processor_seconds()
    answer = program.ask(f"run '{table}' {steps} {source}")
    own = program.processor_seconds() - own
    others = busy_seconds() - busy - own
    return {
        "rate": answer["images"] / answer["seconds"],
        "processor": 1000 * own / answer["images"],
        "other_cores": others / answer["seconds"],
    }


def summarise(turns: dict[str, list[dict]]) -> dict:
    """Return a backend's median images per second, their ratio, and the ratio in each round."""
    medians = {source: statistics.median(turn["rate"] for turn in found) for source, found in turns.items()}
    pairs = zip(turns["feed"], turns["memory"], strict=True)
    return {
        **medians,
        "ratio": medians["feed"] / medians["memory"],
        "ratios": [fed["rate"] / held["rate"] for fed, held in pairs],
        "processor": {
            source: statistics.median(turn["processor"] for turn in found) for source, found in turns.items()
        },
        "other_cores": statistics.median(turn["other_cores"] for found in turns.values() for turn in found),
    }


def as_table(figures: dict[str, dict]) -> str:
    lines = [
        "\nTraining, images per second (medians)\n",
        "| backend | from the feed | from memory | ratio | ratios of the rounds | "
        "CPU ms per image, feed | memory | cores used by others |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for backend, figure in figures.items():
        lines.append(
            f"| {backend} | {figure['feed']:.1f} | {figure['memory']:.1f} | {figure['ratio']:.3f} | "
            f"{min(figure['ratios']):.3f} to {max(figure['ratios']):.3f} | "
            f"{figure['processor']['feed']:.1f} | {figure['processor']['memory']:.1f} | {figure['other_cores']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    flags = parse_flags()
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train-speed-", dir=ROOT / "build") as scratch:
        try:
            if not flags.table:
                ingest(flags.data / IMAGES, TABLE, SIZE)
            turns = measure(flags, (flags.table or TABLE).resolve(), Path(scratch))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            stop(str(error))
    figures = {backend: summarise(found) for backend, found in turns.items()}
    say(as_table(figures))
    finish(
        {"rounds": flags.rounds, "steps": flags.steps, "results": figures},
        [
            {
                "goal": f"{backend}, feed to memory",
                "limit": f"{GOAL} to {LARGEST_RATIO}",
                "reached": figure["ratio"],
                "met": GOAL <= figure["ratio"] <= LARGEST_RATIO,
                "counts": True,
            }
            for backend, figure in figures.items()
        ],
    )


if __name__ == "__main__":
    main()
