"""Side by side: how many images a second training's feed gives, and how well it mixes; cxrflow and its peers.

The table is that of the 5,216 real files at 224 x 224, made once below build/ by cxrflow's ingest, or --table. Every
contestant has it in its own format, raw pixels as ours, converted before anything is timed. It feeds whole epochs as
shuffled batches of 32 in NumPy, uint8 (32, 224, 224, 1) with labels, on the same two cores. The contestants are programs of
their own, started once, that take turns (A B C, A B C, ...). In a turn a feed is opened and gives two epochs, and that again
until a second has passed; all of it counts, the opening too. Before, what they feed is checked sample by sample. Files come from the page cache. While one
works the others wait; what the cores spend meanwhile on anything else is measured too.

Mixing is measured on a table whose rows lie sorted by class: the variance of the batches' mean label, divided by that of an
ideal shuffle, over several epochs. 1 is ideal; a feed above 1.3 does not mix, and its speed does not count. A shuffle buffer
has the same --shuffle-rows for everyone, fewer than the table has: one that holds the whole table always mixes. For example:

    make benchmark-feed FLAGS="--rounds 3"
    python tests/benchmarks/feed.py --only pyarrow cxrflow tfrecord

The table goes to standard error; standard output ends with one line of JSON. Exit status: 0, 1 where a goal is missed, 2
where something that it needs is missing or a contestant failed.
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
"""Epochs for which a feed is opened."""
TURN_SECONDS = 1.0
"""A turn is at least as long."""

PROJECT, PEERS = [sys.executable], [str(PEERS_PYTHON)]
# Packages beside the project's own, whose torch they use.
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
"""The command of each, in the order of their turns."""

RESTLESS = {"ray"}
"""Contestants whose waiting processes take a twentieth of a core. They are stopped while others work."""

OURS = ("cxrflow", "cxrflow-2")
YARDSTICK, YARDSTICK_SHARE = "pyarrow", 0.7
LARGEST_RATIO = 1.3
"""Above this ratio of variances a feed does not mix."""


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contestant (5)")
    parser.add_argument("--table", type=Path, help=f"table of cxrflow's, {HEIGHT} x {HEIGHT} ({TABLE}, which is made)")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder with {IMAGES} (CXRFLOW_BENCHMARK_DATA, or {DATA})"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CONTESTANTS,
        default=list(CONTESTANTS),
        metavar="NAME",
        help=f"contestants, of {', '.join(CONTESTANTS)} (all)",
    )
    parser.add_argument(
        "--shuffle-rows", type=int, default=2048, metavar="N", help="rows of everyone's shuffle buffer (2048)"
    )
    parser.add_argument(
        "--mixing-epochs", type=int, default=4, metavar="N", help="epochs over which mixing is measured (4)"
    )
    return parser.parse_args()


def check(flags: argparse.Namespace) -> None:
    """End with status 2 and a sentence where something is missing."""
    for name in ("rounds", "shuffle_rows", "mixing_epochs"):
        if getattr(flags, name) < 1:
            stop(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(flags, name)}")
    if flags.table and not (flags.table / "manifest.json").exists():
        stop(f"--table: expected a table that ingest.py wrote, found no {flags.table / 'manifest.json'}")
    if not flags.table and not TABLE.exists() and not (flags.data / IMAGES).is_dir():
        stop(f"--data: expected the folder {IMAGES}, found no {flags.data / IMAGES}")
    for needed, commands in ((PEERS_PYTHON, PEERS), (PEERS_TORCH, WITH_TORCH)):
        if not needed.exists() and any(CONTESTANTS[name][: len(commands)] == commands for name in flags.only):
            stop(f"expected the peers' packages at {needed}, found none; make benchmark-feed installs them")


def start(name: str, scratch: Path) -> Program:
    say(f"starting {name}")
    words = CONTESTANTS[name]
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    return Program(name, [*words[:script], str(Path(__file__).with_name(words[script])), *words[script + 1 :]], scratch)


class Contest:
    """The programs with their data, ready to feed."""

    def __init__(self, programs: list[Program], table: Path, shuffle_rows: int, scratch: Path):
        self._programs, self._table, self._shuffle_rows, self._scratch = programs, table, shuffle_rows, scratch

    def mixing(self, epochs: int) -> dict[str, dict]:
        """Each contestant's ratio of variances on the table sorted by class, and whether an epoch is exact."""
        place = self._scratch / "sorted"
        sort_by_class(self._table, place)
        wanted = digest(place)
        found = {}
        for program in self._programs:
            answer = self._take(program, self._converted(program, place), epochs, check=True)
            fed = answer["epochs"]
            found[program.name] = {
                "variance_ratio": variance_ratio(fed),
                "exact": all(e["digest"] == wanted for e in fed),
            }
            say(f"mixing of {program.name}: {found[program.name]['variance_ratio']:.2f}")
        return found

    def speed(self, rounds: int) -> dict[str, list[dict]]:
        """The turns of each contestant."""
        places = {program.name: self._converted(program, self._table) for program in self._programs}
        for program in self._programs:
            self._take(program, places[program.name], EPOCHS, check=False)  # warm
        turns: dict[str, list[dict]] = {program.name: [] for program in self._programs}
        for number in range(1, rounds + 1):
            for program in self._programs:
                turn = self._turn(program, places[program.name])
                turns[program.name].append(turn)
                say(f"round {number} of {rounds}, {program.name}: {turn['rate']:,.0f} images/s")
        return turns

    def _turn(self, program: Program, data: str) -> dict:
        """Images a second, of all epochs and of all first and second ones, with the cores that anything else took meanwhile."""
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
        if program.name in RESTLESS:
            program.wake()
        answer = program.ask(f"run '{data}' {epochs} {self._shuffle_rows} {int(check)}")
        if program.name in RESTLESS:
            program.rest()
        return answer

    def _converted(self, program: Program, table: Path) -> str:
        """Where the program has the table's data in its own format."""
        if program.name in RESTLESS:
            program.wake()
        say(f"converting for {program.name}")
        return program.ask(f"convert '{table}' '{self._scratch / f'{program.name}-{table.name}'}'")["data"]


def digest(table: Path) -> int:
    """What ``feeding.consume`` says of an epoch with every sample once."""
    return sum(digest_of(*read_shard(path)) for path in shards(str(table)))


def variance_ratio(epochs: list[dict]) -> float:
    """Variance of the mean label of the batches of usual size, divided by that of batches drawn at random from the epoch
    without putting back."""
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


def summarise(turns: dict[str, list[dict]], mixing: dict[str, dict]) -> dict[str, dict]:
    """Images a second of each contestant (median, min, max; and medians of the first and of the second epoch), how it
    mixes, and whether it counts."""
    figures = {}
    for name, found in turns.items():
        rates = [turn["rate"] for turn in found]
        first, second = (statistics.median(turn["rates"][epoch] for turn in found) for epoch in range(EPOCHS))
        figures[name] = {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
            "first": first,
            "second": second,
            "seconds": [turn["seconds"] for turn in found],
            "other_cores": statistics.median(turn["other_cores"] for turn in found),
            **mixing[name],
            "mixes": mixing[name]["variance_ratio"] <= LARGEST_RATIO,
        }
    return figures


def judge(figures: dict[str, dict]) -> list[dict]:
    """Each goal whose contestants took part, with what was reached. Speed against a peer that does not mix is shown, but it
    does not count."""
    if "cxrflow" not in figures:
        return []
    ours = figures["cxrflow"]
    goals = [
        {
            "goal": "cxrflow's ratio of variances",
            "wanted": f"<= {LARGEST_RATIO}",
            "reached": ours["variance_ratio"],
            "met": ours["mixes"],
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
                "wanted": f">= {YARDSTICK_SHARE}" if is_yardstick else "> 1",
                "reached": reached,
                "met": reached >= YARDSTICK_SHARE if is_yardstick else reached > 1,
                "counts": is_yardstick or figure["mixes"],
            }
        )
    return goals


def as_table(figures: dict[str, dict]) -> str:
    lines = [
        f"\nShuffled batches of {BATCH_ROWS}, {HEIGHT} x {HEIGHT}, images a second over whole epochs on two cores\n",
        "| contestant | median | min | max | first epoch | second epoch | ratio of variances | mixes | every sample once | "
        "cores spent on others |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for name, figure in figures.items():
        rates = " | ".join(f"{figure[column]:,.0f}" for column in ("median", "min", "max", "first", "second"))
        mixes = "yardstick" if name == YARDSTICK else "yes" if figure["mixes"] else "NO: does not count"
        lines.append(
            f"| {name} | {rates} | {figure['variance_ratio']:.2f} | {mixes} | {'yes' if figure['exact'] else 'NO'} | "
            f"{figure['other_cores']:.2f} |"
        )
    return "\n".join(lines)


def say_goals(goals: list[dict]) -> None:
    say("")
    for goal in goals:
        said = "met" if goal["met"] else "MISSED"
        say(
            f"{said if goal['counts'] else f'{said}, but the peer does not mix'}: {goal['goal']}: wanted {goal['wanted']}, "
            f"reached {goal['reached']:.2f}"
        )


def measure(flags: argparse.Namespace, table: Path, scratch: Path) -> dict[str, dict]:
    programs: list[Program] = []
    try:
        for name in flags.only:
            programs.append(start(name, scratch))
            if name in RESTLESS:
                programs[-1].rest()
        contest = Contest(programs, table, flags.shuffle_rows, scratch)
        mixing = contest.mixing(flags.mixing_epochs)
        return summarise(contest.speed(flags.rounds), mixing)
    finally:
        for program in programs:
            program.close()


def make_table(flags: argparse.Namespace) -> Path:
    if not flags.table:
        ingest(flags.data / IMAGES, TABLE, HEIGHT)
    return (flags.table or TABLE).resolve()


def finish(content: dict, goals: list[dict]) -> None:
    """Say the goals, print the JSON, and end with the status that they make."""
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
