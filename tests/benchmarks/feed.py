"""Compare the training feeds of cxrflow and its peers: images per second, and how well they shuffle.

The table has the 5,216 real images at 224 x 224. cxrflow's ingest makes it once below build/, unless --table names one.
Each contestant gets the table as raw pixels in its own format; the conversion is not timed. It feeds whole epochs as
shuffled batches of 32 NumPy images, uint8 (32, 224, 224, 1), with labels, on the same two cores.

Contestants are separate programs. They start once and take turns (A B C, A B C, ...). In a turn, a feed is opened and
feeds two epochs. This is repeated until a second has passed. The time includes opening the feed. Files come from the
page cache. While one contestant works, the others wait; the benchmark also measures what other processes took from the
cores. Before the timed turns, every sample that a contestant feeds is checked.

Shuffling is measured on a table that is sorted by class: the variance of the batches' mean label, divided by the
variance for an ideal shuffle, over several epochs. 1 is ideal. A feed above 1.3 does not shuffle, so its speed does not
count. All shuffle buffers have the same --shuffle-rows, fewer than the table has. Examples:

    make benchmark-feed FLAGS="--rounds 3"
    python tests/benchmarks/feed.py --only pyarrow cxrflow tfrecord

Prints the result table to standard error and one line of JSON to standard output. Exit status: 0; 1 if a goal is
missed; 2 if something is missing that the benchmark needs, or a contestant failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from feed_tables import ingest, sort_by_class
from feeding import BATCH_ROWS, HEIGHT, digest_of, read_shard, shards
from ingest import DATA, PEERS_PYTHON, say, stop, take_two_cores
from program import ROOT, Program, busy_seconds
from real_runs import IMAGES

TABLE = ROOT / "build" / "feed-table"
PEERS_TORCH = ROOT / "build" / "peers-torch"
EPOCHS = 2
"""Epochs that an opened feed feeds."""
TURN_SECONDS = 1.0
"""Least length of a turn."""

PROJECT, PEERS = [sys.executable], [str(PEERS_PYTHON)]
# Their packages are in a folder of their own but use the project's torch.
WITH_TORCH = ["env", f"PYTHONPATH={PEERS_TORCH}", sys.executable]
CONTESTANTS = {
    "pyarrow": [*PROJECT, "feed_pyarrow.py"],
    "cxrflow": [*PROJECT, "feed_cxrflow.py"],
    "cxrflow-2": [*PROJECT, "feed_cxrflow.py", "--workers", "2"],
    "petastorm": [*PROJECT, "feed_petastorm.py"],
    "petastorm-tf": [*PROJECT, "feed_petastorm.py", "--tf"],
    "tfrecord": [*PROJECT, "feed_tfrecord.py"],
    "mosaicml-streaming": [*WITH_TORCH, "feed_mosaicml.py"],
    "webdataset": [*WITH_TORCH, "feed_webdataset.py"],
    "datasets": [*PEERS, "feed_datasets.py"],
    "datasets-iterable": [*PEERS, "feed_datasets.py", "--iterable"],
    "ray": [*PEERS, "feed_ray.py"],
}
"""Each contestant's command, in the order of their turns."""

BUSY_WAITING = {"ray"}
"""Contestants that take a twentieth of a core while they wait. They are suspended while others work."""

OURS = ("cxrflow", "cxrflow-2")
YARDSTICK, YARDSTICK_SHARE = "pyarrow", 0.7
LARGEST_RATIO = 1.3
"""A feed with a larger ratio of variances does not shuffle."""


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contestant (default 5)")
    parser.add_argument("--table", type=Path, help=f"a cxrflow table of {HEIGHT} x {HEIGHT} (default {TABLE})")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder that has {IMAGES} (default $CXRFLOW_BENCHMARK_DATA or {DATA})"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CONTESTANTS,
        default=list(CONTESTANTS),
        metavar="NAME",
        help=f"contestants: any of {', '.join(CONTESTANTS)} (default all)",
    )
    parser.add_argument(
        "--shuffle-rows", type=int, default=2048, metavar="N", help="rows of each shuffle buffer (default 2048)"
    )
    parser.add_argument(
        "--shuffling-epochs", type=int, default=4, metavar="N", help="epochs in which shuffling is measured (default 4)"
    )
    return parser.parse_args()


def check(flags: argparse.Namespace) -> None:
    """Exit with status 2 and a message if something is missing."""
    for name in ("rounds", "shuffle_rows", "shuffling_epochs"):
        if getattr(flags, name) < 1:
            stop(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(flags, name)}")
    if flags.table and not (flags.table / "manifest.json").exists():
        stop(f"--table: expected a table that ingest wrote, got {flags.table} without manifest.json")
    if not flags.table and not TABLE.exists() and not (flags.data / IMAGES).is_dir():
        stop(f"--data: expected a folder that has {IMAGES}, got {flags.data}")
    for needed, commands in ((PEERS_PYTHON, PEERS), (PEERS_TORCH, WITH_TORCH)):
        if not needed.exists() and any(CONTESTANTS[name][: len(commands)] == commands for name in flags.only):
            stop(f"expected the peers' packages at {needed}, got nothing there; install them with make benchmark-feed")


def start(name: str, scratch: Path) -> Program:
    say(f"starting {name}")
    folder = Path(__file__).parent
    command = [str(folder / word) if word.endswith(".py") else word for word in CONTESTANTS[name]]
    return Program(name, command, scratch)


class Contest:
    """The contestants' programs and data."""

    def __init__(self, programs: list[Program], table: Path, shuffle_rows: int, scratch: Path):
        self._programs, self._table, self._shuffle_rows, self._scratch = programs, table, shuffle_rows, scratch

    def shuffling(self, epochs: int) -> dict[str, dict]:
        """Each contestant's ratio of variances on the sorted table, and whether it fed every sample exactly once."""
        sorted_table = self._scratch / "sorted"
        sort_by_class(self._table, sorted_table)
        expected = digest(sorted_table)
        results = {}
        for program in self._programs:
            answer = self._take(program, self._converted(program, sorted_table), epochs, check=True)
            fed = answer["epochs"]
            results[program.name] = {
                "variance_ratio": variance_ratio(fed),
                "exact": all(epoch["digest"] == expected for epoch in fed),
            }
            say(f"ratio of variances of {program.name}: {results[program.name]['variance_ratio']:.2f}")
        return results

    def speed(self, rounds: int) -> dict[str, list[dict]]:
        """Each contestant's turns; see ``_turn``."""
        data = {program.name: self._converted(program, self._table) for program in self._programs}
        for program in self._programs:
            self._take(program, data[program.name], EPOCHS, check=False)  # warm-up
        turns: dict[str, list[dict]] = {program.name: [] for program in self._programs}
        for number in range(1, rounds + 1):
            for program in self._programs:
                turn = self._turn(program, data[program.name])
                turns[program.name].append(turn)
                say(f"round {number} of {rounds}, {program.name}: {turn['rate']:,.0f} images/s")
        return turns

    def _turn(self, program: Program, data: str) -> dict:
        """Images per second, overall and by epoch, and the cores that other processes took meanwhile."""
        for path in Path(data).rglob("*"):
            if path.is_file():
                path.read_bytes()  # into the page cache
        before = busy_seconds() - program.processor_seconds()
        runs = []
        while sum(epoch["seconds"] for run in runs for epoch in run) < TURN_SECONDS:
            runs.append(self._take(program, data, EPOCHS, check=False)["epochs"])
        seconds = [[epoch["seconds"] for epoch in run] for run in runs]
        images = [[sum(epoch["sizes"]) for epoch in run] for run in runs]
        others = (busy_seconds() - program.processor_seconds() - before) / np.sum(seconds)
        return {
            "rate": float(np.sum(images) / np.sum(seconds)),
            "other_cores": float(others),
            "seconds": seconds,
            "rates": (np.sum(images, axis=0) / np.sum(seconds, axis=0)).tolist(),
        }

    def _take(self, program: Program, data: str, epochs: int, check: bool) -> dict:
        if program.name in BUSY_WAITING:
            program.wake()
        answer = program.ask(f"run '{data}' {epochs} {self._shuffle_rows} {int(check)}")
        if program.name in BUSY_WAITING:
            program.rest()
        return answer

    def _converted(self, program: Program, table: Path) -> str:
        """Convert the table for a program, and return the path of the result."""
        if program.name in BUSY_WAITING:
            program.wake()
        say(f"converting for {program.name}")
        return program.ask(f"convert '{table}' '{self._scratch / f'{program.name}-{table.name}'}'")["data"]


def digest(table: Path) -> int:
    """The digest that ``feeding.consume`` returns for an epoch with every sample once."""
    return sum(digest_of(*read_shard(path)) for path in shards(str(table)))


def variance_ratio(epochs: list[dict]) -> float:
    """Variance of the mean label of full batches, divided by that of batches drawn at random without replacement."""
    size = statistics.mode(size for epoch in epochs for size in epoch["sizes"])
    samples, ones = (sum(sum(epoch[name]) for epoch in epochs) / len(epochs) for name in ("sizes", "ones"))
    share = ones / samples
    means = np.array(
        [
            ones / size
            for epoch in epochs
            for rows, ones in zip(epoch["sizes"], epoch["ones"], strict=True)
            if rows == size
        ]
    )
    ideal = share * (1 - share) / size * (samples - size) / (samples - 1)
    return float(((means - share) ** 2).mean() / ideal)


def summarise(turns: dict[str, list[dict]], shuffling: dict[str, dict]) -> dict[str, dict]:
    """Each contestant's images per second (median, min, max, medians of the first and second epoch) and shuffling."""
    figures = {}
    for name, own_turns in turns.items():
        rates = [turn["rate"] for turn in own_turns]
        first, second = (statistics.median(turn["rates"][epoch] for turn in own_turns) for epoch in range(EPOCHS))
        figures[name] = {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
            "first": first,
            "second": second,
            "seconds": [turn["seconds"] for turn in own_turns],
            "other_cores": statistics.median(turn["other_cores"] for turn in own_turns),
            **shuffling[name],
            "shuffles": shuffling[name]["variance_ratio"] <= LARGEST_RATIO,
        }
    return figures


def judge(figures: dict[str, dict]) -> list[dict]:
    """The goals of the contestants that took part. A goal against a peer that does not shuffle does not count."""
    if "cxrflow" not in figures:
        return []
    ours = figures["cxrflow"]
    goals = [
        {
            "goal": "cxrflow's ratio of variances",
            "limit": f"<= {LARGEST_RATIO}",
            "reached": ours["variance_ratio"],
            "met": ours["shuffles"],
            "counts": True,
        }
    ]
    for peer, figure in figures.items():
        if peer in OURS:
            continue
        reached = ours["median"] / figure["median"]
        is_yardstick = peer == YARDSTICK
        goals.append(
            {
                "goal": f"cxrflow to {peer}",
                "limit": f">= {YARDSTICK_SHARE}" if is_yardstick else "> 1",
                "reached": reached,
                "met": reached >= YARDSTICK_SHARE if is_yardstick else reached > 1,
                "counts": is_yardstick or figure["shuffles"],
            }
        )
    return goals


def as_table(figures: dict[str, dict]) -> str:
    lines = [
        f"\nShuffled batches of {BATCH_ROWS}, {HEIGHT} x {HEIGHT}, images per second over whole epochs on two cores\n",
        "| contestant | median | min | max | first epoch | second epoch | ratio of variances | shuffles "
        "| every sample once | cores used by others |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for name, figure in figures.items():
        rates = " | ".join(f"{figure[column]:,.0f}" for column in ("median", "min", "max", "first", "second"))
        shuffles = "yardstick" if name == YARDSTICK else "yes" if figure["shuffles"] else "NO: does not count"
        lines.append(
            f"| {name} | {rates} | {figure['variance_ratio']:.2f} | {shuffles} "
            f"| {'yes' if figure['exact'] else 'NO'} | {figure['other_cores']:.2f} |"
        )
    return "\n".join(lines)


def say_goals(goals: list[dict]) -> None:
    say("")
    for goal in goals:
        result = "met" if goal["met"] else "MISSED"
        note = "" if goal["counts"] else " (does not count, since the peer does not shuffle)"
        say(f"{result}{note}: {goal['goal']}: expected {goal['limit']}, got {goal['reached']:.2f}")


def measure(flags: argparse.Namespace, table: Path, scratch: Path) -> dict[str, dict]:
    programs: list[Program] = []
    try:
        for name in flags.only:
            programs.append(start(name, scratch))
            if name in BUSY_WAITING:
                programs[-1].rest()
        contest = Contest(programs, table, flags.shuffle_rows, scratch)
        shuffling = contest.shuffling(flags.shuffling_epochs)
        return summarise(contest.speed(flags.rounds), shuffling)
    finally:
        for program in programs:
            program.close()


def make_table(flags: argparse.Namespace) -> Path:
    if not flags.table:
        ingest(flags.data / IMAGES, TABLE, HEIGHT)
    return (flags.table or TABLE).resolve()


def finish(content: dict, goals: list[dict]) -> None:
    """Report the goals, print the JSON line, and exit with status 1 if a goal that counts is missed."""
    say_goals(goals)
    print(json.dumps({**content, "goals": goals}))
    sys.exit(0 if all(goal["met"] for goal in goals if goal["counts"]) else 1)


def main() -> None:
    flags = parse_flags()
    check(flags)
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-feed-", dir=ROOT / "build") as scratch:
        try:
            figures = measure(flags, make_table(flags), Path(scratch))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            stop(str(error))
    say(as_table(figures))
    finish({"rounds": flags.rounds, "shuffle_rows": flags.shuffle_rows, "results": figures}, judge(figures))


if __name__ == "__main__":
    main()
