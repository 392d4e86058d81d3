"""What train.py's defaults reach on patients, and on series of films, that training has not seen.

The 5,216 real files are dealt to five folds by patient, within each series (bacteria, virus, IM, NORMAL2: how the files are
called, and where they come from as far as anybody knows). Each fold is the test split once; of the other patients one in
nine is validation. Then each series is left out in turn: the model is trained without it, and tested on all of it beside the
first fold's patients of the other label. Temperature and threshold come from the validation split alone. For example:

    python tests/benchmarks/held_out.py --epochs 25

Everything is kept below --folder: the same command goes on with what is missing, also inside a training. With the
default of 100 epochs a training takes half an hour of two cores; all nine take four and a half hours. The tables go to
standard error; standard output ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from ingest import DATA, say
from program import ROOT
from trained import IMAGES, find_images, list_files, make_table, open_two_slots, train_and_judge

from cxrflow.config import IngestConfig, TrainConfig
from cxrflow.metrics.intervals import Resamples, percentiles

SERIES = {"IM": "NORMAL", "NORMAL2": "NORMAL", "bacteria": "PNEUMONIA", "virus": "PNEUMONIA"}
"""With the label of all their images."""
POSITIVE = "PNEUMONIA"
VALIDATION = 9
"""One in so many of the patients that are not tested."""


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=5, help="into how many the patients are dealt (5)")
    parser.add_argument("--tests", nargs="+", help="which to run, such as 1 2 IM (all folds, then all series)")
    parser.add_argument("--epochs", type=int, help="of each training (train.py's default)")
    parser.add_argument("--launcher", choices=("local", "horovod", "torch"), default="horovod", help="how workers start (horovod)")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="training workers (2)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "held-out", help="tables and runs")
    parser.add_argument("--data", type=Path, default=DATA, help=f"folder with {IMAGES} (CXRFLOW_BENCHMARK_DATA, or {DATA})")
    flags = parser.parse_args()
    known = [*map(str, range(1, flags.folds + 1)), *SERIES]
    flags.tests = flags.tests or known
    if unknown := set(flags.tests) - set(known):
        parser.error(f"--tests: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return flags


def series_of(path: str) -> str:
    return re.search("bacteria|virus|NORMAL2|IM", path.rpartition("/")[2])[0]


def find_folds(patients: dict[str, list[str]], folds: int) -> dict[str, int]:
    """Of each patient, from 1: each series is dealt out evenly in random order."""
    members: dict[str, list[str]] = {}
    for patient, paths in sorted(patients.items()):
        members.setdefault(series_of(paths[0]), []).append(patient)
    random, found = np.random.default_rng(0), {}
    for name in SERIES:
        found |= {str(patient): place % folds + 1 for place, patient in enumerate(random.permutation(members[name]))}
    return found


def deal(patients: dict[str, list[str]], folds: dict[str, int], test: str) -> Iterator[tuple[str, str, str]]:
    """(path, patient, split) of all images; ``test`` is a fold's number or a series' name."""
    others = 0
    for patient in np.random.default_rng(0).permutation(sorted(patients)):
        paths = patients[str(patient)]
        series = series_of(paths[0])
        tested = str(folds[str(patient)]) == test or series == test or (
            test in SERIES and SERIES[series] != SERIES[test] and folds[str(patient)] == 1)
        others += not tested
        split = "test" if tested else "train" if others % VALIDATION else "val"
        yield from ((path, str(patient), split) for path in paths)


def train_without(spark, test: str, dealt: Iterator[tuple[str, str, str]], images: Path, flags: argparse.Namespace) -> dict:
    """Train and judge: ``judged`` (metrics.json) and ``scored`` (a row an image, with series and right)."""
    folder = flags.folder.resolve() / test
    table = folder / "table"
    make_table(spark, dealt, IngestConfig(images=str(images), table=str(table)))
    asked = {"epochs": flags.epochs} if flags.epochs else {}
    judged, _, scored = train_and_judge(spark, TrainConfig(
        table=str(table), run=str(folder / "run"), launcher=flags.launcher, workers=flags.workers, **asked))
    return {"judged": judged, "scored": scored.assign(
        series=scored["path"].map(series_of), right=scored["predicted_label"] == scored["label"])}


def share_right(scored: pd.DataFrame) -> dict:
    """Images, patients, the share that is called right, and its interval by patient."""
    right = scored["right"].to_numpy(float)
    found = Resamples(scored["patient_id"].to_numpy(), 2000).of(
        lambda weights: {"right": weights @ right / weights.sum(axis=1)})
    return {"images": len(scored), "patients": scored["patient_id"].nunique(), "right": float(right.mean()),
            "interval": percentiles(found["right"])}


def summarise(found: dict[str, dict]) -> dict:
    """``tests``: figures of each; ``together``: of all folds' images, each scored by the model that has not seen its patient,
    by label and series; ``unseen``: of each series that was left out."""
    tests = {}
    for test, one in found.items():
        names = ("n", "auc", "auc_interval", "accuracy", "accuracy_interval_by_patient", "sensitivity",
                 "sensitivity_interval_by_patient", "specificity", "specificity_interval_by_patient")
        tests[test] = {**{name: one["judged"][name] for name in names}, "ece": one["judged"]["calibration"]["ece"],
                       "ece_interval": one["judged"]["calibration"]["ece_interval"]}
    folds = [one["scored"] for test, one in found.items() if test not in SERIES]
    together = {}
    if folds:
        pooled = pd.concat(folds)
        parts = {"all": pooled, **dict(list(pooled.groupby("label"))), **dict(list(pooled.groupby("series")))}
        together = {name: share_right(part) for name, part in parts.items()}
    unseen = {test: share_right(one["scored"][one["scored"]["series"] == test]) for test, one in found.items() if test in SERIES}
    return {"tests": tests, "together": together, "unseen": unseen}


def percent(value: float, interval: list[float] | None) -> str:
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def as_text(figures: dict) -> Iterator[str]:
    """Markdown tables; percent with 95 % intervals by patient."""
    yield "\n| tested | images | AUC | accuracy | sensitivity | specificity | calibration error |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for test, one in figures["tests"].items():
        rates = [percent(one[name], one[f"{name}_interval_by_patient"]) for name in ("accuracy", "sensitivity", "specificity")]
        yield (f"| {test if test in SERIES else f'fold {test}'} | {one['n']:,} | {percent(one['auc'], one['auc_interval'])} | "
               f"{' | '.join(rates)} | {percent(one['ece'], one['ece_interval'])} |")
    yield "\n| part | images | called right, others of it seen in training | called right, none of it seen |"
    yield "| --- | ---: | ---: | ---: |"
    for part in dict.fromkeys([*figures["together"], *figures["unseen"]]):
        both = [figures[which].get(part) for which in ("together", "unseen")]
        cells = [percent(one["right"], one["interval"]) if one else "" for one in both]
        yield f"| {part} | {next(one['images'] for one in both if one):,} | {' | '.join(cells)} |"


def main() -> None:
    flags = parse_flags()
    images = find_images(flags.data)
    spark, patients = open_two_slots("cxrflow held out"), list_files(images)
    folds, found = find_folds(patients, flags.folds), {}
    for test in flags.tests:
        found[test] = train_without(spark, test, deal(patients, folds, test), images, flags)
        say("\n".join(as_text(summarise({test: found[test]}))))
    spark.stop()
    figures = summarise(found)
    say("\n".join(as_text(figures)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
