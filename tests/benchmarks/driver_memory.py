"""Measure the driver's memory by the number of images, separately for the JVM and for the driver's Python.

jobs/ingest.py runs through spark-submit on a standalone cluster on this machine, with executors in separate processes
and a driver with 1 GB. The measure is VmHWM in /proc/PID/status, the peak memory of a process, read until the process
ends. Each size is a new spark-submit. The images are copies of real ones under the names of invented patients. A
comment in each copy makes its content, and so its SHA-256, unique. Example:

    python tests/benchmarks/driver_memory.py --sizes 1000 10000 100000

The table goes to standard error, the curve to a PNG file. Standard output ends with one line of JSON. Until the
end, 100,000 images take about 700 MB of disk space below build/, and their table 5 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contestant import list_images
from copies import with_comment
from ingest import DATA, check_data, say, stop
from program import ROOT, tree_of

SOURCE = "chest_xray_224"
DRIVER_MEMORY = "1g"
IMAGES_PER_PATIENT = 3
PAUSE_SECONDS = 0.05


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[1_000, 10_000, 100_000],
        metavar="N",
        help="numbers of images (1000 10000 100000)",
    )
    parser.add_argument("--repeats", type=int, default=1, help="spark-submits of each size, whose median counts (1)")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder with {SOURCE} (CXRFLOW_BENCHMARK_DATA, or {DATA})"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        default=ROOT / "docs" / "benchmarks" / "driver-memory.png",
        help="file for the curve (docs/benchmarks/driver-memory.png)",
    )
    flags = parser.parse_args()
    check_data(flags.data, rounds=flags.repeats)
    if min(flags.sizes) < 1:
        stop(f"--sizes: expected numbers above 0, got {min(flags.sizes)}")
    return flags


def grow(images: Path, sources: dict[str, list[bytes]], start: int, stop: int) -> None:
    """Add images number ``start`` to ``stop``: three per patient, and three PNEUMONIA patients per NORMAL one."""
    for number in range(start, stop):
        patient, image = divmod(number, IMAGES_PER_PATIENT)
        if patient % 4 == 0:
            path = images / "NORMAL" / f"IM-{patient:06d}-{image:04d}.jpeg"
        else:
            path = images / "PNEUMONIA" / f"person{patient}_bacteria_{number}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        candidates = sources[path.parent.name]
        path.write_bytes(with_comment(candidates[number % len(candidates)], str(number)))


@contextlib.contextmanager
def cluster(scratch: Path) -> Iterator[str]:
    """Start a cluster of two workers with one core each, on free ports; yields its URL."""
    state = str(scratch / "cluster")
    started = subprocess.run(
        [
            ROOT / "cluster" / "start.sh",
            "--workers",
            "2",
            "--cores",
            "1",
            "--memory",
            "2g",
            "--port",
            "0",
            "--webui-port",
            "0",
            "--state",
            state,
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    try:
        yield started.stdout.split()[-1]
    finally:
        subprocess.run([ROOT / "cluster" / "stop.sh", "--state", state], check=True)


def ingest(master: str, images: Path, scratch: Path) -> dict:
    """One ingest by spark-submit; returns samples, seconds, and the peaks of the driver's processes in bytes."""
    table, log = scratch / "table", scratch / "spark-submit.log"
    # With exec the shell becomes spark-submit, which becomes the driver's JVM, so the process id stays the same.
    command = [
        "bash",
        "-c",
        'source cluster/env.sh && exec spark-submit "$@"',
        "spark-submit",
        "--master",
        master,
        "--driver-memory",
        DRIVER_MEMORY,
        "jobs/ingest.py",
        "--images",
        str(images),
        "--table",
        str(table),
    ]
    with open(log, "w") as output:
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
        )
        peaks = watch(driver)
    lines = log.read_text().splitlines()
    if driver.returncode:
        raise RuntimeError(
            f"spark-submit ended with status {driver.returncode}; its last lines:\n" + "\n".join(lines[-20:])
        )
    if not all(peaks.values()):
        raise RuntimeError(f"expected to see the driver's JVM and its Python under /proc, got {peaks}")
    result = json.loads(lines[-1])
    shutil.rmtree(table)
    return {"samples": result["samples"], "seconds": result["seconds"], **peaks}


def watch(driver: subprocess.Popen) -> dict[str, int]:
    """Wait for the driver to end; returns the peak memory of its JVM and of its Python, in bytes."""
    peaks, python = {"jvm": 0, "python": 0}, None
    while driver.poll() is None:
        # exec resets the peak of a process, so the last value counts, not the largest.
        peaks["jvm"] = peak_of(driver.pid) or peaks["jvm"]
        python = python or python_below(driver.pid)
        if python:
            peaks["python"] = peak_of(python) or peaks["python"]
        time.sleep(PAUSE_SECONDS)
    return peaks


def peak_of(pid: int) -> int | None:
    """Peak memory of a process in bytes; None if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def python_below(jvm: int) -> int | None:
    """The Python process that the JVM has started for the job."""
    for pid in tree_of(jvm)[1:]:
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            is_job = any(argument.endswith(b"jobs/ingest.py") for argument in arguments)
            if is_job and b"python" in os.path.basename(arguments[0]):
                return pid
    return None


def measure(flags: argparse.Namespace, scratch: Path) -> list[dict]:
    """The measurements of each run, in order of size. Each size adds images to the previous one."""
    sources = {
        label: [Path(path).read_bytes() for path in list_images(str(flags.data / SOURCE / label))]
        for label in ("NORMAL", "PNEUMONIA")
    }
    runs = []
    with cluster(scratch) as master:
        for before, size in itertools.pairwise([0, *sorted(set(flags.sizes))]):
            say(f"writing {size - before:,} images")
            grow(scratch / "images", sources, before, size)
            for _ in range(flags.repeats):
                run = {"images": size, **ingest(master, scratch / "images", scratch)}
                say(f"{size:,} images: {run['samples']:,} samples in {run['seconds']:.0f} s")
                runs.append(run)
    return runs


def summarise(runs: list[dict]) -> list[dict]:
    """The medians of the runs of each size; memory in MiB."""
    sizes = sorted({run["images"] for run in runs})
    return [
        {
            "images": size,
            **{
                name: statistics.median(run[name] for run in runs if run["images"] == size) / 2**20
                for name in ("jvm", "python")
            },
        }
        for size in sizes
    ]


def as_table(rows: list[dict]) -> str:
    lines = [
        f"\nPeak resident memory of the driver in MiB, --driver-memory {DRIVER_MEMORY}\n",
        "| images | JVM | Python |",
        "| ---: | ---: | ---: |",
    ]
    return "\n".join(lines + [f"| {row['images']:,} | {row['jvm']:,.0f} | {row['python']:,.0f} |" for row in rows])


def draw(rows: list[dict], path: Path) -> None:
    """Draw memory by number of images, with a logarithmic x axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name, label in (("jvm", "JVM"), ("python", "Python")):
        axes.plot([row["images"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    axes.set(
        xscale="log",
        xlabel="images",
        ylabel="peak resident memory, MiB",
        title=f"Driver of jobs/ingest.py, heap of {DRIVER_MEMORY}",
    )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    flags = parse_flags()
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="driver-memory-", dir=ROOT / "build") as scratch:
        try:
            runs = measure(flags, Path(scratch))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    rows = summarise(runs)
    draw(rows, flags.picture)
    say(as_table(rows))
    print(json.dumps({"driver_memory": DRIVER_MEMORY, "runs": runs, "picture": str(flags.picture)}))


if __name__ == "__main__":
    main()
