"""Measure how training scales on this machine: one worker on one core, two workers on two, and one process on two.

Workers of both launchers train the residual model on random images at 128 and 224 px, in batches of 32 per worker. Each
worker is bound to its own cores. Rounds take turns over all shapes. Images per second come from the step events, so
start-up and the first step do not count; the result is the median of the rounds.

Then ``jobs/train.py`` runs through spark-submit with two workers, to measure the time from the command to the end of
the first step, including the preflight. For example:

    make benchmark-scaling
    python tests/benchmarks/scaling.py --rounds 1 --sizes 128 --steps 10 --no-start-up

Prints Markdown tables to standard error and one line of JSON to standard output, which cost_model.py reads. Exit
status: 0; 1 if a goal is missed; 2 if something failed. Three rounds take a quarter of an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cxrflow.base.config import IngestConfig, to_dict
from cxrflow.base.manifest import read_manifest, write_manifest
from feed import finish
from feed_tables import make_many_shards
from ingest import say, stop, take_two_cores
from program import ROOT, Program, busy_seconds
from scaling_cxrflow import BATCH_ROWS

LAUNCHERS = {"horovod": "Horovod, TensorFlow", "torch": "TorchDistributor, torch"}
SHAPES = {"one": (1, 1), "two": (2, 1), "apart": (2, 1), "threads": (1, 2)}
"""Number of workers, and threads (cores) of each. In ``apart``, two workers train a model each and do not communicate.
This is the most that two cores of this machine can do, because they share its memory."""
STEPS = {128: 60, 224: 20}
"""Steps per worker and turn by image size: about four seconds of one core."""
SHARD_ROWS = 32
WEAK_GOAL, THREADS_GOAL, TORCH_GOAL, START_GOAL = 0.95, 1.0, 1.0, 25.0


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns per launcher and shape (3)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", choices=STEPS, default=list(STEPS), help="height and width (both)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps per turn (60 at 128 px, 20 at 224)")
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS), help="launchers (both)")
    parser.add_argument("--no-start-up", action="store_true", help="do not measure start-up")
    flags = parser.parse_args()
    if flags.rounds < 1 or (flags.steps is not None and flags.steps < 3):
        stop(f"--rounds, --steps: expected at least 1 and 3, got {flags.rounds} and {flags.steps}")
    return flags


def make_table(table: Path, size: int, images: int) -> Path:
    """Make a table of random images, with ``images`` in the split train and two shards in val."""
    count = -(-images // SHARD_ROWS)
    make_many_shards(table, count + 2, min(count + 2, 8), SHARD_ROWS, size)
    manifest = read_manifest(str(table))
    shards = [
        dataclasses.replace(shard, split="train" if index < count else "val")
        for index, shard in enumerate(manifest.shards)
    ]
    made = to_dict(IngestConfig(images="random", table=str(table), height=size, width=size))
    write_manifest(
        str(table),
        dataclasses.replace(
            manifest, shards=shards, config=made, audit={"patients": {"train": images, "val": 2 * SHARD_ROWS}}
        ),
    )
    return table


def make_tables(flags: argparse.Namespace, scratch: Path) -> dict[tuple[int, int], Path]:
    """Make a table for each number of cores and image size. A worker has the same number of steps on each."""
    tables = {}
    for cores in (1, 2):
        for size in flags.sizes:
            images = cores * (flags.steps or STEPS[size]) * BATCH_ROWS
            tables[cores, size] = make_table(scratch / f"table-{cores}-{size}", size, images)
    return tables


def measure(flags: argparse.Namespace, tables: dict, scratch: Path) -> dict[tuple[str, str, int], list[dict]]:
    """Return the turns by launcher, shape and size."""
    programs: dict[int, Program] = {}
    turns: dict[tuple[str, str, int], list[dict]] = {}
    try:
        for threads in (1, 2):
            programs[threads] = Program(
                f"session-{threads}",
                [sys.executable, str(Path(__file__).with_name("scaling_cxrflow.py")), "--task-cpus", str(threads)],
                scratch,
            )
        for number in range(1, flags.rounds + 1):
            for launcher in flags.launchers:
                for shape, (workers, threads) in SHAPES.items():
                    how, cores = ("apart", 1) if shape == "apart" else ("together", workers * threads)
                    urls = " ".join(f"'{tables[cores, size]}'" for size in flags.sizes)
                    busy, started = busy_seconds(), time.monotonic()
                    found = programs[threads].ask(f"run {launcher} {workers} {how} '{scratch / 'runs'}' {urls}")[
                        "sizes"
                    ]
                    busy_cores = (busy_seconds() - busy) / (time.monotonic() - started)
                    for size, turn in zip(flags.sizes, found, strict=True):
                        turns.setdefault((launcher, shape, size), []).append(turn)
                    rates = ", ".join(
                        f"{turn['rate']:.1f} images/s at {size} px"
                        for size, turn in zip(flags.sizes, found, strict=True)
                    )
                    say(f"round {number} of {flags.rounds}, {launcher}, {shape}: {rates} ({busy_cores:.2f} cores busy)")
                    shutil.rmtree(scratch / "runs")
        return turns
    finally:
        for program in programs.values():
            program.close()


def start_up(launcher: str, table: Path, scratch: Path) -> dict:
    """Time jobs/train.py with two workers, in seconds since spark-submit.

    Returns ``preflight`` (its own duration), ``start`` (workers are ready, the model is built) and ``first_step`` (it
    is done).
    """
    run, log = scratch / f"start-up-{launcher}", scratch / f"start-up-{launcher}.log"
    began = time.time()
    with open(log, "w") as output:
        done = subprocess.run(
            [
                "bash",
                "-c",
                'source cluster/env.sh && exec spark-submit "$@"',
                "spark-submit",
                "--master",
                "local[2]",
                "--driver-memory",
                "1g",
                "jobs/train.py",
                "--table",
                str(table),
                "--run",
                str(run),
                "--launcher",
                launcher,
                "--workers",
                "2",
                "--epochs",
                "1",
                "--batch-size",
                str(BATCH_ROWS),
            ],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    text = log.read_text()
    if done.returncode:
        raise RuntimeError(f"jobs/train.py ended with status {done.returncode}; its last lines:\n{text[-2000:]}")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["event"] == "start")
    step = next(event for event in events if event["event"] == "step")
    # The first step event covers all steps but the first.
    rest = (step["images"] - 2 * BATCH_ROWS) / step["images_per_second"]
    return {
        "preflight": float(re.search(r"preflight passed in ([\d.]+) s", text)[1]),
        "start": start["time"] - began,
        "first_step": step["time"] - rest - began,
    }


def summarise(turns: dict[tuple[str, str, int], list[dict]]) -> list[dict]:
    """Return, for each launcher and size, the rates of all shapes, weak scaling, and the all-reduce's share of the
    time.

    Rates are medians of images per second, with the smallest and largest of the rounds.
    """
    rows = []
    for launcher, size in dict.fromkeys((launcher, size) for launcher, _, size in turns):
        rates = {shape: [turn["rate"] for turn in turns[launcher, shape, size]] for shape in SHAPES}
        one, two, apart, threads = (statistics.median(rates[shape]) for shape in SHAPES)
        shares = [
            turn["all_reduce_share"] for turn in turns[launcher, "two", size] if turn["all_reduce_share"] is not None
        ]
        rows.append(
            {
                "launcher": launcher,
                "size": size,
                "one": one,
                "two": two,
                "apart": apart,
                "threads": threads,
                "weak": two / (2 * one),
                "to_apart": two / apart,
                "to_threads": two / threads,
                "all_reduce_share": statistics.median(shares) if shares else None,
                "step_seconds": BATCH_ROWS / one,
                "range": {shape: [min(found), max(found)] for shape, found in rates.items()},
            }
        )
    return rows


def as_table(rows: list[dict], starts: dict[str, dict]) -> str:
    lines = [
        "",
        "| launcher, backend | px | 1 worker, 1 core | 2 workers, 2 cores | 2 apart | 1 process, 2 threads | "
        "weak scaling | 2 workers to 2 apart | 2 workers to 2 threads | all-reduce |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        share = "" if row["all_reduce_share"] is None else f"{row['all_reduce_share']:.1%}"
        lines.append(
            f"| {LAUNCHERS[row['launcher']]} | {row['size']} | {row['one']:.0f} | {row['two']:.0f} | "
            f"{row['apart']:.0f} | {row['threads']:.0f} | {row['weak']:.1%} | {row['to_apart']:.1%} | "
            f"{row['to_threads']:.2f} | {share} |"
        )
    if starts:
        lines += [
            "",
            "| seconds from spark-submit, 2 workers | preflight alone | workers ready | first step done |",
            "| --- | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {LAUNCHERS[launcher]} | {found['preflight']:.1f} | {found['start']:.1f} | {found['first_step']:.1f} |"
            for launcher, found in starts.items()
        ]
    return "\n".join(lines)


def judge(rows: list[dict], starts: dict[str, dict]) -> list[dict]:
    """Return each goal with what was reached."""
    goals = [_goal(f"{row['launcher']} at {row['size']} px, weak scaling", row["weak"], WEAK_GOAL) for row in rows]
    goals += [
        _goal(f"horovod at {row['size']} px, 2 workers to 2 threads", row["to_threads"], THREADS_GOAL)
        for row in rows
        if row["launcher"] == "horovod"
    ]
    single = {(row["launcher"], row["size"]): row["one"] for row in rows}
    goals += [
        _goal(f"torch to TensorFlow at {size} px, one thread", rate / single["horovod", size], TORCH_GOAL)
        for (launcher, size), rate in single.items()
        if launcher == "torch" and ("horovod", size) in single
    ]
    return goals + [
        {
            "goal": f"{launcher}, seconds from spark-submit to the first step",
            "limit": f"< {START_GOAL:.0f}",
            "reached": found["first_step"],
            "met": found["first_step"] < START_GOAL,
            "counts": True,
        }
        for launcher, found in starts.items()
    ]


def _goal(name: str, reached: float, wanted: float) -> dict:
    return {"goal": name, "limit": f">= {wanted}", "reached": reached, "met": reached >= wanted, "counts": True}


def main() -> None:
    flags = parse_flags()
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=ROOT / "build") as folder:
        scratch = Path(folder)
        try:
            tables = make_tables(flags, scratch)
            turns = measure(flags, tables, scratch)
            starts = (
                {}
                if flags.no_start_up
                else {launcher: start_up(launcher, tables[2, flags.sizes[0]], scratch) for launcher in flags.launchers}
            )
        except (RuntimeError, subprocess.CalledProcessError) as error:
            stop(str(error))
    rows = summarise(turns)
    say(as_table(rows, starts))
    finish({"rounds": flags.rounds, "results": rows, "start_up": starts}, judge(rows, starts))


if __name__ == "__main__":
    main()
