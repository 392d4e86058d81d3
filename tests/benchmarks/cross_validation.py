"""Cross-validate train's defaults by patient, and leave one series of images out.

The data are the 5,216 real files without copies. Their names show to which series they belong: bacteria, virus, IM or
NORMAL2.

- Cross-validation: patients are assigned to five folds within each series. Each fold is the test split once. One in
  nine of the other patients is in the validation split.
- Leave one series out: the model is trained without one series, so on fewer images and with another share of pneumonia.
  The test split is all of that series, and the patients with the other label in the first fold.

Temperature and threshold come from the validation split only. For example:

    python tests/benchmarks/cross_validation.py --epochs 25

Results stay below --folder, and the same command continues with what is missing, also inside a training. With the
default of 100 epochs a training takes half an hour on two cores, and all nine take four and a half hours. Prints the
tables to standard error and one line of JSON to standard output.
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
"""One in so many of the patients outside the test split is validation."""


def parse_flags() -> tuple[argparse.Namespace, Path]:
    parser = real_runs.make_parser(__doc__, "cross-validation")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (5)")
    parser.add_argument("--tests", nargs="+", help="test splits to run, such as 1 2 IM (all folds, then all series)")
    parser.add_argument("--epochs", type=int, help="epochs per training (train's default)")
    flags, images = real_runs.parse(parser)
    known = [*map(str, range(1, flags.folds + 1)), *real_runs.SERIES]
    flags.tests = flags.tests or known
    if unknown := set(flags.tests) - set(known):
        parser.error(f"--tests: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    return flags, images


def assign_splits(patients: dict[str, list[str]], folds: dict[str, int], test: str) -> Iterator[tuple[str, str, str]]:
    """Yield (path, patient, split) of all images. ``test``: number of a fold or name of a series."""
    others = 0
    for patient in np.random.default_rng(0).permutation(sorted(patients)):
        paths = patients[str(patient)]
        series = real_runs.series_of(paths[0])
        in_test = (
            str(folds[str(patient)]) == test
            or series == test
            or (
                test in real_runs.SERIES
                and real_runs.SERIES[series] != real_runs.SERIES[test]
                and folds[str(patient)] == 1
            )
        )
        others += not in_test
        split = "test" if in_test else "train" if others % VALIDATION else "val"
        yield from ((path, str(patient), split) for path in paths)


def train_without(
    spark, test: str, samples: Iterator[tuple[str, str, str]], images: Path, flags: argparse.Namespace
) -> dict:
    """Train and evaluate once.

    Returns ``metrics`` (metrics.json) and ``scored`` (a row per image, with ``series`` and ``correct``).
    """
    folder = flags.folder / f"{flags.folds}-folds" / test
    table = folder / "table"
    real_runs.make_table(spark, samples, IngestConfig(images=str(images), table=str(table)))
    options = {"epochs": flags.epochs} if flags.epochs else {}
    config = TrainConfig(
        table=str(table),
        run=str(real_runs.run_folder(folder, "run", flags)),
        launcher=flags.launcher,
        workers=flags.workers,
        **options,
    )
    real_runs.train_once(spark, config)
    metrics, scored = real_runs.evaluate_once(spark, config, table)
    return {
        "metrics": metrics,
        "scored": scored.assign(
            series=scored["path"].map(real_runs.series_of), correct=scored["predicted_label"] == scored["label"]
        ),
    }


def accuracy_of(scored: pd.DataFrame) -> dict:
    """Return ``n``, accuracy and its interval by patient."""
    found = Rate.of(scored["correct"].to_numpy(float), np.ones(len(scored)), scored["patient_id"].to_numpy())
    return {"n": len(scored), "accuracy": found.value, "interval": found.interval}


def summarise(found: dict[str, dict]) -> dict:
    """Return the figures of all test splits.

    ``tests``: figures of each. ``together``: accuracy on the images of all folds, each scored by the model that was not
    trained on its patient, by label and series. ``unseen``: accuracy on each series that was left out.
    """
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
            **{name: one["metrics"][name] for name in names},
            "ece": one["metrics"]["calibration"]["ece"],
            "ece_interval": one["metrics"]["calibration"]["ece_interval"],
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
    """Yield Markdown tables: percent with 95 % intervals over patients, not over trainings."""
    yield "\n| test split | images | AUC | accuracy | sensitivity | specificity | calibration error |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for test, one in figures["tests"].items():
        rates = [percent(one[name], one[f"{name}_interval"]) for name in ("accuracy", "sensitivity", "specificity")]
        yield (
            f"| {test if test in real_runs.SERIES else f'fold {test}'} | {one['n']:,} | "
            f"{percent(one['auc'], one['auc_interval'])} | {' | '.join(rates)} | "
            f"{percent(one['ece'], one['ece_interval'])} |"
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
        found[test] = train_without(spark, test, assign_splits(patients, folds, test), images, flags)
        say("\n".join(as_text(summarise({test: found[test]}))))
    spark.stop()
    figures = summarise(found)
    say("\n".join(as_text(figures)))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
