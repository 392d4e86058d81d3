"""Compares the original notebook's conditions with cxrflow's defaults on the same images.

A draw takes 540 training images (a fifth for validation) and 100 test images at random from the 5,216 real files, with
each patient in one split, and ingests them at 150x106. On each draw it trains two recipes for the same number of epochs
and evaluates them on the test images: the notebook's conditions (a plain CNN, 200 epochs, batches of 32, Adam without
warm-up or weight decay, no augmentation) and the defaults of ``cxrflow train``. The notebook used a constant learning
rate, and so did the published comparison. cxrflow now always decays it. For example:

    python tests/benchmarks/notebook_comparison.py --launcher horovod --workers 2

All results are stored below --folder, so the same command resumes an interrupted comparison, even within a training.
Once each recipe was trained, it logs the remaining time. The whole takes about 45 minutes on two cores. The table is
written to standard error, the curves to --picture, and one line of JSON to the end of standard output. An image may be
a test image of two draws, so intervals are over patients. They do not cover other trainings on the same images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cxrflow.base.config import IngestConfig, TrainConfig
from cxrflow.metrics.intervals import Rate, Resamples, percentiles
from ingest import say
from program import ROOT
from real_runs import evaluate_once, list_files, make_parser, make_table, open_two_slots, parse, run_folder, train_once

SIZES = {"test": 100, "val": 108, "train": 432}
"""Images of each split; the notebook used 20 % of its 540 images for validation."""
BATCH_SIZE = 32
"""Of the notebook, with one worker."""
RECIPES = {
    "notebook": {
        "model": "notebook",
        "augment": "none",
        "learning_rate": 1e-3,
        "lr_scaling": "none",
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "ema_epochs": 0.0,
        "tta": 1,
    },
    "default": {},
}
"""Fields of TrainConfig that differ from its defaults."""
COLORS = {"notebook": "#e69f00", "default": "#0072b2"}


def parse_flags() -> tuple[argparse.Namespace, Path]:
    parser = make_parser(__doc__, "notebook-comparison")
    parser.add_argument("--draws", type=int, default=5, help="draws of images, seeds 0 and up (5)")
    parser.add_argument("--epochs", type=int, default=200, help="epochs of both (200)")
    parser.add_argument(
        "--picture", type=Path, default=ROOT / "docs" / "benchmarks" / "notebook.png", help="file of the picture"
    )
    return parse(parser)


def draw_images(patients: dict[str, list[str]], seed: int) -> Iterator[tuple[str, str, str]]:
    """(path, patient, split) of each drawn image.

    Patients in random order fill the splits one after the other with all their images. The last patient of a split
    contributes only as many images as fit.
    """
    order = iter(np.random.default_rng(seed).permutation(sorted(patients)))
    for split, size in SIZES.items():
        while size > 0:
            patient = str(next(order))
            drawn = patients[patient][:size]
            size -= len(drawn)
            yield from ((path, patient, split) for path in drawn)


def configure(recipe: str, table: Path, run: Path, seed: int, flags: argparse.Namespace) -> TrainConfig:
    """The recipe's configuration. The notebook had one worker, so its batches are divided among the workers."""
    fields = dict(RECIPES[recipe])
    if recipe == "notebook":
        fields["batch_size"] = BATCH_SIZE // flags.workers
    return TrainConfig(
        table=str(table),
        run=str(run),
        seed=seed,
        launcher=flags.launcher,
        workers=flags.workers,
        epochs=flags.epochs,
        **fields,
    )


def compare(spark, table: Path, recipe: str, folder: Path, seed: int, flags: argparse.Namespace) -> dict:
    """The results of one recipe on one draw for the table and the picture; trains and evaluates it if not yet done."""
    config = configure(recipe, table, run_folder(folder, recipe, flags), seed, flags)
    epochs = train_once(spark, config)
    metrics, scored = evaluate_once(spark, config, table)
    scores = scored.filter(like="score_")
    highest = scores.columns.str.removeprefix("score_")[scores.to_numpy().argmax(axis=1)]
    curves = {name: [epoch[name] for epoch in epochs] for name in ("val_accuracy", "val_auc")}
    tested = scored.sort_values("path")
    return {
        "n": metrics["n"],
        "patients": tested["patient_id"].tolist(),
        "correct": (tested["predicted_label"] == tested["label"]).astype(int).tolist(),
        "correct_at_highest": (highest == scored["label"]).astype(int)[tested.index].tolist(),
        "auc": metrics["auc"],
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "curves": curves,
        "swing": {name: swing(curve) for name, curve in curves.items()},
    }


def swing(curve: list[float]) -> dict[str, float]:
    """The change of a curve from epoch to epoch over its last third: mean and maximum."""
    steps = np.abs(np.diff(curve[-max(2, len(curve) // 3) :])) if len(curve) > 1 else np.zeros(1)
    return {"mean": float(steps.mean()), "max": float(steps.max())}


def rate(draws: list[dict], which: str = "correct") -> str:
    """The rate over the images of all draws, in percent with its interval."""
    correct, patients = (np.concatenate([draw[name] for draw in draws]) for name in (which, "patients"))
    found = Rate.of(correct, np.ones(len(correct)), patients)
    return f"{100 * found.value:.1f} ({100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})"


def difference(found: dict[str, list[dict]]) -> dict:
    """The difference in accuracy between the defaults and the notebook on the same images.

    Returns ``difference``, a share, its ``interval`` from a bootstrap over patients, and ``only``, the number of images
    that only one of the two predicts correctly.
    """
    one, other = (np.concatenate([draw["correct"] for draw in found[recipe]]) for recipe in ("default", "notebook"))
    differences, patients = one - other, np.concatenate([draw["patients"] for draw in found["default"]])
    samples = Resamples(patients, 2000).of(lambda weights: {"difference": weights @ differences / weights.sum(axis=1)})[
        "difference"
    ]
    return {
        "difference": float(differences.mean()),
        "interval": percentiles(samples),
        "only": {"default": int((differences > 0).sum()), "notebook": int((differences < 0).sum())},
    }


def rows(found: dict[str, list[dict]]) -> Iterator[str]:
    """The lines of the table: each draw, and all draws together."""
    yield "| recipe | draw | test accuracy, % | at the highest score | AUC | swing of val accuracy | of val AUC | s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for recipe, draws in found.items():
        sums = {name: sum(draw[name] for draw in draws) for name in ("auc", "seconds")}
        swings = {
            name: {
                "mean": np.mean([draw["swing"][name]["mean"] for draw in draws]),
                "max": max(draw["swing"][name]["max"] for draw in draws),
            }
            for name in draws[0]["swing"]
        }
        together = {**sums, "auc": sums["auc"] / len(draws), "swing": swings}
        for name, draw, of in [*((index, draw, [draw]) for index, draw in enumerate(draws)), ("all", together, draws)]:
            moves = [
                f"{draw['swing'][curve]['mean']:.4f}, at most {draw['swing'][curve]['max']:.4f}"
                for curve in ("val_accuracy", "val_auc")
            ]
            yield (
                f"| {recipe} | {name} | {rate(of)} | {rate(of, 'correct_at_highest')} "
                f"| {draw['auc']:.4f} | {' | '.join(moves)} | {draw['seconds']:.0f} |"
            )


def draw_curves(found: dict[str, list[dict]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    titles = {"notebook": "the notebook's conditions", "default": "cxrflow's defaults"}
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.5), sharey="row", layout="constrained")
    for column, (recipe, draws) in enumerate(found.items()):
        axes[0, column].set_title(f"{titles[recipe]}: test accuracy {rate(draws)} %", fontsize=10)
        for axis, curve in zip(axes[:, column], ("val_accuracy", "val_auc"), strict=True):
            for draw in draws:
                axis.plot(
                    np.arange(len(draw["curves"][curve])) + 1,
                    draw["curves"][curve],
                    color=COLORS[recipe],
                    linewidth=0.9,
                )
            axis.grid(alpha=0.3)
        axes[1, column].set_xlabel("epoch")
    axes[0, 0].set_ylabel(f"accuracy, {SIZES['val']} validation images")
    axes[1, 0].set_ylabel("AUC, the same images")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def say_remaining(found: dict[str, list[dict]], draws: int) -> None:
    """Log the estimated time of the remaining trainings."""
    if all(found.values()):
        left = sum(np.mean([draw["seconds"] for draw in done]) * (draws - len(done)) for done in found.values())
        say(f"about {left / 60:.0f} min of training left")


def main() -> None:
    flags, images = parse_flags()
    spark, patients = open_two_slots("cxrflow notebook comparison"), list_files(images)
    found: dict[str, list[dict]] = {recipe: [] for recipe in RECIPES}
    for seed in range(flags.draws):
        folder = flags.folder / f"draw-{seed}"
        table = folder / "table"
        make_table(
            spark,
            draw_images(patients, seed),
            IngestConfig(images=str(images), table=str(table), height=150, width=106),
        )
        for recipe in RECIPES:
            found[recipe].append(compare(spark, table, recipe, folder, seed, flags))
            say_remaining(found, flags.draws)
    spark.stop()
    draw_curves(found, flags.picture)
    compared = difference(found)
    say("\n".join(rows(found)))
    say(
        f"\nOn the same images the accuracy of the defaults is {100 * compared['difference']:+.1f} percentage points "
        f"higher (95 % interval {' to '.join(f'{100 * limit:+.1f}' for limit in compared['interval'] or [])}). "
        f"Only the defaults are correct on {compared['only']['default']} images, only the notebook on "
        f"{compared['only']['notebook']}."
    )
    for draw in (draw for draws in found.values() for draw in draws):
        del draw["curves"], draw["patients"]
        draw |= {name: sum(draw[name]) for name in ("correct", "correct_at_highest")}
    print(json.dumps({**found, "difference": compared}))


if __name__ == "__main__":
    main()
