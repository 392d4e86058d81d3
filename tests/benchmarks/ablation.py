"""What each part of train.py's recipe gives: trainings with one thing changed, over several seeds.

Of the patients of the 5,216 real files, of copies one, a fifth is tested and a tenth is validation; the same for all. Each
recipe is trained once a seed (initial weights, order, augmentation), and judged on the test images as they are and on the
same with another shape: normal ones cropped to 85 % of their height, ill ones to 85 % of their width, and both stretched
back. That takes away what shape tells of the label, and turns it around. For example:

    python tests/benchmarks/ablation.py --recipes default "no augmentation" --seeds 3

Everything is kept below --folder: the same command goes on with what is missing. A training of 20 epochs at 128 px takes about
three minutes of two cores, so all recipes with three seeds an hour and a half. The table goes to standard error; standard
output ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import t as student

import real_runs
from cxrflow.base.config import IngestConfig, TrainConfig
from ingest import say

RECIPES = {
    "default": {},
    "no augmentation": {"augment": "none"},
    "pose alone": {"augment": "light"},
    "strong": {"augment": "strong"},
    "no average": {"ema_epochs": 0.0},
    "no test-time augmentation": {"tta": 1},
    "resnetd": {"model": "resnetd"},
    "plain": {"model": "plain"},
}
"""What is asked of train.py beside its defaults."""
FIGURES = {"auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
KEPT = 0.85


def parse_flags() -> tuple[argparse.Namespace, Path]:
    parser = real_runs.make_parser(__doc__, "ablation")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="which to train (all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each, seeds 0 and up (3)")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (128)")
    parser.add_argument("--epochs", type=int, default=20, help="of each training (20)")
    return real_runs.parse(parser)


def deal(patients: dict[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """(path, patient, split) of all images."""
    folds = real_runs.find_folds(patients, 10)
    for patient, paths in patients.items():
        split = "test" if folds[patient] <= 2 else "val" if folds[patient] == 3 else "train"
        yield from ((path, patient, split) for path in paths)


def reshape(images: Path, dealt: list[tuple[str, str, str]], folder: Path) -> list[tuple[str, str, str]]:
    """Write the test images with another shape below ``folder``."""
    tested = [row for row in dealt if row[2] == "test"]
    for path in (path for path, *_ in tested if not (folder / path).exists()):
        image = cv2.imread(str(images / path), cv2.IMREAD_GRAYSCALE)
        axis = 0 if real_runs.SERIES[real_runs.series_of(path)] == "NORMAL" else 1
        margin = round(image.shape[axis] * (1 - KEPT) / 2)
        cropped = np.moveaxis(np.moveaxis(image, axis, 0)[margin:-margin], 0, axis)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), cv2.resize(cropped, image.shape[::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return tested


def make_tables(spark, images: Path, flags: argparse.Namespace) -> dict[str, Path]:
    folder = flags.folder / f"{flags.size}px"
    tables = {"as they are": folder / "table", "another shape": folder / "table-reshaped"}
    dealt = list(deal(real_runs.list_files(images)))
    size = {"height": flags.size, "width": flags.size}
    real_runs.make_table(spark, dealt, IngestConfig(images=str(images), table=str(tables["as they are"]), **size))
    reshaped = flags.folder / "reshaped"
    real_runs.make_table(
        spark,
        reshape(images, dealt, reshaped),
        IngestConfig(images=str(reshaped), table=str(tables["another shape"]), **size),
    )
    return tables


def train_recipe(spark, recipe: str, seed: int, tables: dict[str, Path], flags: argparse.Namespace) -> dict[str, dict]:
    """The figures on each of the tables."""
    run = real_runs.run_folder(tables["as they are"].parent, f"{recipe.replace(' ', '-')}-{seed}", flags)
    config = TrainConfig(
        table=str(tables["as they are"]),
        run=str(run),
        seed=seed,
        epochs=flags.epochs,
        launcher=flags.launcher,
        workers=flags.workers,
        **RECIPES[recipe],
    )
    real_runs.train_once(spark, config)
    judged = {name: real_runs.evaluate_once(spark, config, table)[0] for name, table in tables.items()}
    return {name: {figure: one[figure] for figure in FIGURES} for name, one in judged.items()}


def interval(values: list[float]) -> str:
    """Mean over seeds in percent, with its 95 % interval by Student's t."""
    mean = 100 * np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = 100 * student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def as_text(found: dict[str, list[dict]]) -> Iterator[str]:
    """A Markdown table for each kind of test images; differences are between trainings of the same seed."""
    for name in next(iter(found.values()))[0]:
        yield f"\nTest images {name}; percent, mean and 95 % interval over seeds, so not over other patients:\n"
        yield f"| recipe | {' | '.join(FIGURES.values())} | AUC - default | accuracy - default |"
        yield f"| --- |{' ---: |' * (len(FIGURES) + 2)}"
        for recipe, seeds in found.items():
            cells = [interval([one[name][figure] for one in seeds]) for figure in FIGURES]
            for figure in ("auc", "accuracy"):
                pairs = zip(seeds, found.get("default", []), strict=False)
                differences = [one[name][figure] - default[name][figure] for one, default in pairs]
                cells.append(interval(differences) if differences and recipe != "default" else "")
            yield f"| {recipe} | {' | '.join(cells)} |"


def main() -> None:
    flags, images = parse_flags()
    spark = real_runs.open_two_slots("cxrflow ablation")
    tables, found = make_tables(spark, images, flags), {}
    for seed in range(flags.seeds):
        for recipe in flags.recipes:
            found.setdefault(recipe, []).append(train_recipe(spark, recipe, seed, tables, flags))
        say("\n".join(as_text(found)))
    spark.stop()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
