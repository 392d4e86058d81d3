"""Side by side: DICOM files a second of cxrflow's ingest, and of two processes with each syntax's fastest decoder.

    python tests/benchmarks/dicom.py --count 2000 --rounds 3

Files are made by ``dicom_files.py`` and kept in build/dicom. Rounds take turns; each begins with a small folder that is
not timed. The table goes to standard error, one line of JSON to standard output. Exit status 1 where a ratio is below
0.85, 2 where something is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from contestant import list_images
from dicom_files import DATA, SYNTAXES, make_files
from ingest import PEERS, PEERS_PYTHON, PROJECT, ratio, say, stop, summarise, take_turns, take_two_cores
from program import ROOT, Program

GOAL = 0.85
WARM_UP_FILES = 16
CONTESTANTS = {"decoders": [PEERS, "ingest_dicom.py"], "cxrflow": [PROJECT, "ingest_cxrflow.py"]}


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="files of each syntax (2000)")
    parser.add_argument("--distinct", type=int, default=50, help="different images among them (50)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (3)")
    parser.add_argument("--syntaxes", nargs="+", choices=SYNTAXES, default=list(SYNTAXES), help="syntaxes (all)")
    return parser.parse_args()


def warm_up_folder(files: Path, syntax: str, scratch: Path) -> Path:
    folder = scratch / syntax / "warm-up"
    for path in list_images(str(files / syntax))[:WARM_UP_FILES]:
        target = folder / "CR" / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder


def main() -> None:
    flags = parse_flags()
    if not DATA.is_dir():
        stop(f"expected real X-rays at {DATA}; name their parent folder in CXRFLOW_BENCHMARK_DATA")
    if not PEERS_PYTHON.exists():
        stop(f"expected the peers' environment at {PEERS_PYTHON}, found none; make benchmark makes it")
    files = ROOT / "build" / "dicom"
    say(f"making {flags.count} files of each syntax in {files}")
    make_files(files, flags.count, flags.distinct, tuple(flags.syntaxes))
    take_two_cores()
    results = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=ROOT / "build") as scratch:
        programs = [
            Program(name, [python, str(Path(__file__).with_name(script))], Path(scratch))
            for name, (python, script) in CONTESTANTS.items()
        ]
        try:
            for syntax in flags.syntaxes:
                warm_up = warm_up_folder(files, syntax, Path(scratch))
                results[syntax] = summarise(take_turns(programs, files / syntax, warm_up, flags.rounds))
        finally:
            for program in programs:
                program.close()
            for line in (Path(scratch) / "decoders.log").read_text().splitlines():
                say(line)
    say("\nfiles a second, processor time in ms a file")
    names = ("decoders", "cxrflow", "ratio", "decoders ms", "cxrflow ms", "other cores")
    say(f"{'syntax':<20}" + "".join(f"{name:>13}" for name in names))
    ratios = {}
    for syntax, figures in results.items():
        ratios[syntax] = ratio(figures, "cxrflow", "decoders")
        busy = statistics.median(figure["other_cores"] for figure in figures.values())
        numbers = [figures[name]["median"] for name in CONTESTANTS] + [ratios[syntax]]
        numbers += [figures[name]["processor_ms"] for name in CONTESTANTS] + [busy]
        say(f"{syntax:<20}" + "".join(f"{number:>13.2f}" for number in numbers))
    print(json.dumps({"count": flags.count, "rounds": flags.rounds, "ratios": ratios, "results": results}))
    sys.exit(0 if all(value >= GOAL for value in ratios.values()) else 1)


if __name__ == "__main__":
    main()
