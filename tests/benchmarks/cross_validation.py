"""Cross-validation by patient, and leave-one-series-out: what train.py's defaults reach on patients, and on series of
films, that training has not seen.

The 5,216 real files, of copies one, are dealt to five folds by patient, within each series (bacteria, virus, IM, NORMAL2: how
the files are called, and where they come from as far as anybody knows). Each fold is the test split once; of the other
patients one in nine is validation. Then each series is left out in turn: the model is trained without it, so on fewer images
and with another share of ill ones, and tested on all of it beside the first fold's patients of the other label. Temperature
and threshold come from the validation split alone. For example:

    python tests/benchmarks/cross_validation.py --epochs 25

Everything is kept below --folder: the same command goes on with what is missing, also inside a training. With the
default of 100 epochs a training takes half an hour of two cores; all nine take four and a half hours. The tables go to
standard error; standard output ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import real_runs
from cxrflow.base.config import IngestConfig, TrainConfig
from cxrflow.metrics.intervals import Rate
from ingest import say

VALIDATION = 9
"""One in so many of the patients that are not tested."""


def parse_flags() -> tuple[argparse.Namespace, Path]:
    parser = real_runs.make_parser(__doc__, "cross-validation")
    parser.add_argument("--folds", type=int, default=5, help="into how many the patients are dealt (5)")
    parser.add_argument("--tests", nargs="+", help="which to run, such as 1 2 IM (all folds, then all series)")
    parser.add_argument("--epochs", type=int, help="of each training (train.py's default)")
    flags, images = real_runs.parse(parser)
    known = [*map(str, range(1, flags.folds + 1)), *real_runs.SERIES]
    flags.tests = flags.tests or known
    if unknown := set(flags.tests) - set(known):
        parser.error(f"--tests: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return flags, images


def deal(patients: dict[str, list[str]], folds: dict[str, int], test: str) -> Iterator[tuple[str, str, str]]:
    """(path, patient, split) of all images; ``test`` is a fold's number or a series' name."""
    others = 0
    for patient in np.random.default_rng(0).permutation(sorted(patients)):
        paths = patients[str(patient)]
        series = real_runs.series_of(paths[0])
        tested = (
            str(folds[str(patient)]) == test
            or series == test
            or (
                test in real_runs.SERIES
                and real_runs.SERIES[series] != real_runs.SERIES[test]
                and folds[str(patient)] == 1
            )
        )
        others += not tested
        split = "test" if tested else "train" if others % VALIDATION else "val"
        yield from ((path, str(patient), split) for path in paths)


def train_without(
    spark, test: str, dealt: Iterator[tuple[str, str, str]], images: Path, flags: argparse.Namespace
) -> dict:
    """Train and judge: ``judged`` (metrics.json) and ``scored`` (a row an image, with series and right)."""
    folder = flags.folder / f"{flags.folds}-folds" / test
    table = folder / "table"
    real_runs.make_table(spark, dealt, IngestConfig(images=str(images), table=str(table)))
    asked = {"epochs": flags.epochs} if flags.epochs else {}
    config = TrainConfig(
        table=str(table),
        run=str(real_runs.run_folder(folder, "run", flags)),
        launcher=flags.launcher,
        workers=flags.workers,
        **asked,
    )
    real_runs.train_once(spark, config)
    judged, scored = real_runs.evaluate_once(spark, config, table)
    return {
        "judged": judged,
        "scored": scored.assign(
            series=scored["path"].map(real_runs.series_of), right=scored["predicted_label"] == scored["label"]
        ),
    }


def accuracy_of(scored: pd.DataFrame) -> dict:
    """``n``, accuracy and its interval."""
    found = Rate.of(scored["right"].to_numpy(float), np.ones(len(scored)), scored["patient_id"].to_numpy())
    return {"n": len(scored), "accuracy": found.value, "interval": found.interval}


def summarise(found: dict[str, dict]) -> dict:
    """``tests``: figures of each; ``together``: of all folds' images, each scored by the model that has not seen its patient,
    by label and series; ``unseen``: of each series that was left out."""
    tests = {}
    for test, one in found.items():
        names = (
            "n",
            "auc",
            "auc_interval",
            "accuracy",
            "accuracy_interval",
            "sensitivity",
            "sensitivity_interval",
            "specificity",
            "specificity_interval",
        )
        tests[test] = {
            **{name: one["judged"][name] for name in names},
            "ece": one["judged"]["calibration"]["ece"],
            "ece_interval": one["judged"]["calibration"]["ece_interval"],
        }
    folds = [one["scored"] for test, one in found.items() if test not in real_runs.SERIES]
    together = {}
    if folds:
        pooled = pd.concat(folds)
        parts = {"all": pooled, **dict(list(pooled.groupby("label"))), **dict(list(pooled.groupby("series")))}
        together = {name: accuracy_of(part) for name, part in parts.items()}
    unseen = {
        test: accuracy_of(one["scored"][one["scored"]["series"] == test])
        for test, one in found.items()
        if test in real_runs.SERIES
    }
    return {"tests": tests, "together": together, "unseen": unseen}


def percent(value: float, interval: list[float] | None) -> str:
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def as_text(figures: dict) -> Iterator[str]:
    """Markdown tables; percent with 95 % intervals over patients, not over trainings."""
    yield "\n| tested | images | AUC | accuracy | sensitivity | specificity | calibration error |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for test, one in figures["tests"].items():
        rates = [percent(one[name], one[f"{name}_interval"]) for name in ("accuracy", "sensitivity", "specificity")]
        yield (
            f"| {test if test in real_runs.SERIES else f'fold {test}'} | {one['n']:,} | {percent(one['auc'], one['auc_interval'])} | "
            f"{' | '.join(rates)} | {percent(one['ece'], one['ece_interval'])} |"
        )
    yield "\n| images of | accuracy, cross-validation | n | accuracy, series left out | n |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for part in dict.fromkeys([*figures["together"], *figures["unseen"]]):
        both = [figures[which].get(part) for which in ("together", "unseen")]
        cells = [f"{percent(one['accuracy'], one['interval'])} | {one['n']:,}" if one else " | " for one in both]
        yield f"| {part} | {' | '.join(cells)} |"


def main() -> None:
    flags, images = parse_flags()
    spark, patients = real_runs.open_two_slots("cxrflow cross-validation"), real_runs.list_files(images)
    folds, found = real_runs.find_folds(patients, flags.folds), {}
    for test in flags.tests:
        found[test] = train_without(spark, test, deal(patients, folds, test), images, flags)
        say("\n".join(as_text(summarise({test: found[test]}))))
    spark.stop()
    figures = summarise(found)
    say("\n".join(as_text(figures)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
