"""Compare the throughput of cxrflow's ingest with other ways to write the same Parquet files from real X-rays.

Each contestant is a separate program on the same two cores, started once. Rounds alternate (A B C, A B C, ...), so that
a temporary slowdown of the machine affects all contestants. Each round starts with a small folder that is not timed, to
warm the caches. The time counts from the call to the last file written. Files come from the page cache. Only one
contestant runs at a time. The benchmark also measures what the two cores spend on other processes: if that is not close
to 0, the machine was not idle and the figures are unreliable. Examples:

    make benchmark FLAGS="--rounds 3"
    python tests/benchmarks/ingest.py --only pillow cxrflow --decoder pillow

The table goes to standard error. Standard output ends with one line of JSON. Exit status: 0, or 1 if a goal is missed,
or 2 if a requirement is missing or a contestant failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from contestant import PROCESSES, list_images
from copies import multiply
from program import ROOT, Program, busy_seconds

DATA = Path(os.environ.get("CXRFLOW_BENCHMARK_DATA", ROOT.parent / "shared" / "data"))
FOLDERS = ("chest_xray_full", "chest_xray_224")
WARM_UP_IMAGES = 128
PEERS_PYTHON = ROOT / "build" / "peers" / "bin" / "python"

PROJECT, PEERS = sys.executable, str(PEERS_PYTHON)
CONTESTANTS = {
    "pillow": [PROJECT, "ingest_pillow.py"],
    "cxrflow": [PROJECT, "ingest_cxrflow.py"],
    "ray": [PEERS, "ingest_ray.py"],
    "ray-defaults": [PEERS, "ingest_ray.py", "--defaults"],
    "datasets": [PEERS, "ingest_datasets.py"],
    "datasets-imagefolder": [PEERS, "ingest_datasets.py", "--imagefolder"],
}
"""Python and program of each contestant, in the order of their turns."""

BUSY_WHEN_IDLE = {"ray", "ray-defaults"}
"""Contestants whose idle processes use a twentieth of a core. They are paused while others run."""

GOALS = [
    ("chest_xray_full", "pillow", 0.85),
    ("chest_xray_224", "pillow", 0.70),
    ("chest_xray_full", "ray", 3.0),
    ("chest_xray_224", "ray", 3.0),
    ("chest_xray_full", "datasets", 1.0),
    ("chest_xray_224", "datasets", 1.0),
]
"""(folder, peer, goal for cxrflow's throughput relative to the peer's)."""


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each contestant and folder (5)")
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        help=f"folder with {' and '.join(FOLDERS)} (CXRFLOW_BENCHMARK_DATA, or {DATA})",
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
        "--copies",
        type=int,
        default=1,
        metavar="N",
        help="ingest N copies of every image: with a larger folder the start-up matters less (1)",
    )
    parser.add_argument("--decoder", help="cxrflow's decoder (the library's default)")
    return parser.parse_args()


def check(flags: argparse.Namespace) -> None:
    """Exit with status 2 and a message if a requirement is missing."""
    check_data(flags.data, flags.rounds)
    if not PEERS_PYTHON.exists() and any(CONTESTANTS[name][0] == PEERS for name in flags.only):
        stop(f"expected the peers' environment at {PEERS_PYTHON}, found none; run make benchmark, which creates it")


def check_data(data: Path, rounds: int) -> None:
    for folder in FOLDERS:
        if not (data / folder).is_dir():
            stop(f"--data: expected the folders {' and '.join(FOLDERS)}, found no {data / folder}")
    if rounds < 1:
        stop(f"--rounds: expected 1 or more, got {rounds}")


def stop(why: str) -> None:
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def take_two_cores() -> None:
    """Restrict this process and its children to two cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < PROCESSES:
        stop(f"expected {PROCESSES} cores, got {len(cores)}")
    os.sched_setaffinity(0, cores[:PROCESSES])


def make_warm_up(data: Path, scratch: Path) -> Path:
    """A small folder with images of every folder and label, for warming up."""
    for folder in FOLDERS:
        files = list_images(str(data / folder))
        for path in map(Path, files[:: max(1, len(files) // (WARM_UP_IMAGES // len(FOLDERS)))]):
            target = scratch / "warm-up" / folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return scratch / "warm-up"


def take_turns(programs: list[Program], folder: Path, warm_up: Path, rounds: int) -> dict[str, list[dict]]:
    """The answers of each program; in each round every program ingests the folder once."""
    for path in list_images(str(folder)):
        Path(path).read_bytes()  # into the page cache
    answers: dict[str, list[dict]] = {program.name: [] for program in programs}
    for number in range(1, rounds + 1):
        for program in programs:
            answer = take_turn(program, folder, warm_up)
            answers[program.name].append(answer)
            say(f"{folder.name}, round {number} of {rounds}, {program.name}: {answer['seconds']:.2f} s")
    return answers


def take_turn(program: Program, folder: Path, warm_up: Path) -> dict:
    """One warm ingest: the program's answer, and the cores that other processes used meanwhile."""
    if program.name in BUSY_WHEN_IDLE:
        program.wake()
    ingest(program, warm_up, warm_up.with_name("out"))
    os.sync()  # otherwise the kernel could write earlier files to disk during the round
    busy, own = busy_seconds(), program.processor_seconds()
    answer = ingest(program, folder, warm_up.with_name("out"))
    answer["processor_seconds"] = program.processor_seconds() - own
    answer["other_cores"] = (busy_seconds() - busy - answer["processor_seconds"]) / answer["seconds"]
    if program.name in BUSY_WHEN_IDLE:
        program.rest()
    return answer


def ingest(program: Program, folder: Path, out: Path) -> dict:
    """The program's answer, checked against the folder. Removes the output."""
    answer = program.ask(f"run '{folder}' '{out}'")
    expected = len(list_images(str(folder)))
    if (answer["images"], answer["rows"]) != (expected, expected):
        raise RuntimeError(f"{program.name}: expected {expected} rows of {folder}, got {answer['rows']}")
    shutil.rmtree(out)
    return answer


def summarise(answers: dict[str, list[dict]]) -> dict[str, dict]:
    """Images per second of each contestant (median, min, max), seconds, and ratios of the medians."""
    figures = {}
    for name, rounds in answers.items():
        rates = [answer["images"] / answer["seconds"] for answer in rounds]
        figures[name] = {
            "median": statistics.median(rates),
            "min": min(rates),
            "max": max(rates),
            "seconds": [answer["seconds"] for answer in rounds],
            "other_cores": statistics.median(answer["other_cores"] for answer in rounds),
            "processor_ms": statistics.median(
                1000 * answer["processor_seconds"] / answer["images"] for answer in rounds
            ),
        }
    for name, figure in figures.items():
        figure["to_pillow"] = ratio(figures, name, "pillow")
        figure["cxrflow_to_it"] = ratio(figures, "cxrflow", name)
    return figures


def ratio(figures: dict[str, dict], name: str, base: str) -> float | None:
    """Ratio of the median throughputs of ``name`` and ``base``; None if one of them did not run."""
    return figures[name]["median"] / figures[base]["median"] if {name, base} <= set(figures) else None


def check_goals(results: dict[str, dict]) -> list[dict]:
    """The goals whose contestants ran, with the reached ratio."""
    goals = []
    for folder, peer, goal in GOALS:
        reached = ratio(results[folder], "cxrflow", peer)
        if reached is not None:
            goals.append({"folder": folder, "peer": peer, "goal": goal, "reached": reached, "met": reached >= goal})
    return goals


def as_table(folder: str, figures: dict[str, dict]) -> str:
    """The figures of one folder as a Markdown table."""

    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [
        f"\n{folder}, images per second on {PROCESSES} cores\n",
        "| contestant | median | min | max | to pillow | cxrflow to it | cores used by others |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, figure in figures.items():
        lines.append(
            f"| {name} | {figure['median']:,.0f} | {figure['min']:,.0f} | {figure['max']:,.0f} | "
            f"{times(figure['to_pillow'])} | {times(figure['cxrflow_to_it'])} | {figure['other_cores']:.2f} |"
        )
    return "\n".join(lines)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def command_of(name: str, decoder: str | None) -> list[str]:
    python, script, *arguments = CONTESTANTS[name]
    if name == "cxrflow" and decoder:
        arguments += ["--decoder", decoder]
    return [python, str(Path(__file__).with_name(script)), *arguments]


def source(flags: argparse.Namespace, name: str, scratch: Path) -> Path:
    """The folder to ingest: the real one, or its copies."""
    return flags.data / name if flags.copies == 1 else multiply(flags.data / name, scratch / name, flags.copies)


def measure(flags: argparse.Namespace, scratch: Path) -> dict[str, dict[str, list[dict]]]:
    """Start, warm up, time in turns and stop all contestants; returns their answers by folder."""
    programs: list[Program] = []
    try:
        for name in flags.only:
            say(f"starting {name}")
            programs.append(Program(name, command_of(name, flags.decoder), scratch))
        warm_up = make_warm_up(flags.data, scratch)
        take_turns(programs, warm_up, warm_up, rounds=1)
        return {name: take_turns(programs, source(flags, name, scratch), warm_up, flags.rounds) for name in FOLDERS}
    finally:
        for program in programs:
            program.close()


def main() -> None:
    flags = parse_flags()
    check(flags)
    take_two_cores()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=ROOT / "build") as scratch:
        try:
            answers = measure(flags, Path(scratch))
        except RuntimeError as error:
            stop(str(error))
    results = {name: summarise(found) for name, found in answers.items()}
    goals = check_goals(results)
    for name, figures in results.items():
        say(as_table(name, figures))
    say("")
    for goal in goals:
        say(
            f"{'met' if goal['met'] else 'MISSED'}: {goal['folder']}, cxrflow to {goal['peer']}: "
            f"goal {goal['goal']:.2f}, reached {goal['reached']:.2f}"
        )
    print(
        json.dumps(
            {
                "decoder": flags.decoder,
                "rounds": flags.rounds,
                "copies": flags.copies,
                "results": results,
                "goals": goals,
            }
        )
    )
    sys.exit(0 if all(goal["met"] for goal in goals) else 1)


if __name__ == "__main__":
    main()
