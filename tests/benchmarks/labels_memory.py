"""The driver's memory while ingest reads labels files of different sizes.

    python tests/benchmarks/labels_memory.py --rows 5000 500000

Each run ingests the same 48 phantoms with ``jobs/ingest.py`` and a labels file of that many rows, most of them without
a file. The peak resident memory of the driver's Python process and of its JVM is sampled every 50 ms. In local mode the
JVM also runs the tasks' JVM side; the Python workers are counted apart. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from program import ROOT


def peak_memory(command: list[str]) -> dict[str, float]:
    """MiB of the driver's Python process, of its JVM and of the largest Python worker, and the seconds it took."""
    peaks = {"driver_python": 0.0, "jvm": 0.0, "python_worker": 0.0}
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    driver = psutil.Process(process.pid)
    while process.poll() is None:
        for found in [driver, *driver.children(recursive=True)]:
            try:
                memory, name = found.memory_info().rss / 2**20, found.name()
            except psutil.NoSuchProcess:
                continue
            part = "driver_python" if found == driver else "jvm" if name == "java" else "python_worker"
            peaks[part] = max(peaks[part], memory)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(process.stderr.read() if process.stderr else "")
    return {name: round(value) for name, value in peaks.items()} | {"seconds": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    flags = parser.parse_args()

    from cxrflow.images.phantoms import make_phantoms

    results = {}
    with tempfile.TemporaryDirectory(prefix="labels-") as scratch:
        images = Path(scratch) / "images"
        make_phantoms(str(images), patients=24, images_per_patient=2, seed=0)
        names = [str(path.relative_to(images)) for path in sorted(images.rglob("*")) if path.is_file()]
        for rows in flags.rows:
            labels = Path(scratch) / f"labels-{rows}.csv"
            others = (f"other/image-{number:08d}.png,A,patient {number // 3}\n" for number in range(rows - len(names)))
            own = (f"{name},{'AB'[number % 2]},patient {number // 2}\n" for number, name in enumerate(names))
            labels.write_text("path,label,patient_id\n" + "".join([*own, *others]))
            table = Path(scratch) / f"table-{rows}"
            job = [sys.executable, str(ROOT / "jobs" / "ingest.py"), "--images", str(images), "--table", str(table)]
            results[rows] = peak_memory([*job, "--labels", str(labels), "--height", "64", "--width", "64"])
            print(f"{rows:>9,} rows: {results[rows]}", file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
