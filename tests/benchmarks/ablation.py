"""Measure what each part of train's default recipe contributes: train with one thing changed, over several seeds.

The data are the 5,216 real files without copies. A fifth of the patients is the test set and a tenth is validation, the
same for all recipes. Each recipe is trained once per seed (of initial weights, order and augmentation).

Each model is evaluated twice: on the test images as they are, and on the same images with another aspect ratio. For the
latter, normal images are cropped to 85 % of their height and pneumonia images to 85 % of their width, then stretched
back. This reverses what the aspect ratio says about the label. For example:

    python tests/benchmarks/ablation.py --recipes default "no augmentation" --seeds 3

Results stay below --folder, and the same command continues with what is missing. A training of 20 epochs at 128 px
takes about three minutes on two cores, so all recipes with three seeds take an hour and a half. Prints the result table
to standard error and one line of JSON to standard output.
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
"""Fields of TrainConfig that differ from the defaults."""
FIGURES = {"auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity"}
CROP = 0.85
"""Share of the height or width that stays in the images with another aspect ratio."""


def parse_flags() -> tuple[argparse.Namespace, Path]:
    parser = real_runs.make_parser(__doc__, "ablation")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="recipes to train (all)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per recipe, with seeds from 0 (3)")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels (128)")
    parser.add_argument("--epochs", type=int, default=20, help="epochs per training (20)")
    return real_runs.parse(parser)


def assign_splits(patients: dict[str, list[str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (path, patient, split) of all images."""
    folds = real_runs.find_folds(patients, 10)
    for patient, paths in patients.items():
        split = "test" if folds[patient] <= 2 else "val" if folds[patient] == 3 else "train"
        yield from ((path, patient, split) for path in paths)


def reshape(images: Path, samples: list[tuple[str, str, str]], folder: Path) -> list[tuple[str, str, str]]:
    """Write the test images with another aspect ratio below ``folder``; returns their samples."""
    test_samples = [row for row in samples if row[2] == "test"]
    for path in (path for path, *_ in test_samples if not (folder / path).exists()):
        image = cv2.imread(str(images / path), cv2.IMREAD_GRAYSCALE)
        axis = 0 if real_runs.SERIES[real_runs.series_of(path)] == "NORMAL" else 1
        margin = round(image.shape[axis] * (1 - CROP) / 2)
        cropped = np.moveaxis(np.moveaxis(image, axis, 0)[margin:-margin], 0, axis)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), cv2.resize(cropped, image.shape[::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return test_samples


def make_tables(spark, images: Path, flags: argparse.Namespace) -> dict[str, Path]:
    folder = flags.folder / f"{flags.size}px"
    tables = {"as they are": folder / "table", "another aspect ratio": folder / "table-reshaped"}
    samples = list(assign_splits(real_runs.list_files(images)))
    size = {"height": flags.size, "width": flags.size}
    real_runs.make_table(spark, samples, IngestConfig(images=str(images), table=str(tables["as they are"]), **size))
    reshaped = flags.folder / "reshaped"
    real_runs.make_table(
        spark,
        reshape(images, samples, reshaped),
        IngestConfig(images=str(reshaped), table=str(tables["another aspect ratio"]), **size),
    )
    return tables


def train_recipe(spark, recipe: str, seed: int, tables: dict[str, Path], flags: argparse.Namespace) -> dict[str, dict]:
    """Train and evaluate once; returns the figures on each of the tables."""
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
    evaluated = {name: real_runs.evaluate_once(spark, config, table)[0] for name, table in tables.items()}
    return {name: {figure: one[figure] for figure in FIGURES} for name, one in evaluated.items()}


def interval(values: list[float]) -> str:
    """Format the mean over seeds in percent with its 95 % interval by Student's t."""
    mean = 100 * np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = 100 * student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def as_text(found: dict[str, list[dict]]) -> Iterator[str]:
    """Yield a Markdown table for each kind of test images. Differences are between trainings with the same seed."""
    for name in next(iter(found.values()))[0]:
        yield f"\nTest images {name}; percent, mean and 95 % interval over seeds (not over patients):\n"
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
