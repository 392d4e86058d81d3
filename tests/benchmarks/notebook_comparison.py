"""The notebook that cxrflow grew from beside cxrflow's defaults, on the same images.

A draw takes 540 training images, a fifth of them for validation, and 100 test images at random from the 5,216 real
files, no patient on two sides and none left out for its height, and ingests them at 150x106. On each draw the notebook's
conditions (a plain CNN, 200 epochs, batches of 32, Adam without warm-up or weight decay, no augmentation) and the defaults
of train.py for as many epochs are trained and judged on the 100. The notebook kept its learning rate; cxrflow always lets it
fall, so the published comparison, which was made with a constant rate, differs in that. For example:

    python tests/benchmarks/notebook_comparison.py --launcher horovod --workers 2

Everything is kept below --folder: the same command goes on with what is missing, also inside a training. Once each recipe
was trained it says how long the rest takes; all is about 45 minutes of two cores. The table goes to standard error, curves to
--picture; standard output ends with one line of JSON. Draws come from the same files, so an image may be tested in two of
them: intervals count patients. They say nothing of other trainings on the same images.
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
"""Images of each split: the notebook's 540 had a validation split of 0.2."""
BATCH_SIZE = 32
"""The notebook's, of one worker."""
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
        "--picture", type=Path, default=ROOT / "docs" / "benchmarks" / "notebook.png", help="where it is drawn"
    )
    return parse(parser)


def deal(patients: dict[str, list[str]], seed: int) -> Iterator[tuple[str, str, str]]:
    """(path, patient, split) of the drawn images: patients in random order fill one split after the other, each with all of
    its images, but the last one of a split with as many as it still takes."""
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
    """Train and judge one recipe on one draw, or read what that gave: what the table and the picture need of it."""
    config = configure(recipe, table, run_folder(folder, recipe, flags), seed, flags)
    epochs = train_once(spark, config)
    judged, scored = evaluate_once(spark, config, table)
    scores = scored.filter(like="score_")
    called = scores.columns.str.removeprefix("score_")[scores.to_numpy().argmax(axis=1)]
    curves = {name: [epoch[name] for epoch in epochs] for name in ("val_accuracy", "val_auc")}
    tested = scored.sort_values("path")
    return {
        "n": judged["n"],
        "patients": tested["patient_id"].tolist(),
        "right": (tested["predicted_label"] == tested["label"]).astype(int).tolist(),
        "right_at_highest": (called == scored["label"]).astype(int)[tested.index].tolist(),
        "auc": judged["auc"],
        "seconds": sum(epoch["seconds"] for epoch in epochs),
        "curves": curves,
        "swing": {name: swing(curve) for name, curve in curves.items()},
    }


def swing(curve: list[float]) -> dict[str, float]:
    """How far the curve moves from epoch to epoch over its last third: on average, and at most."""
    steps = np.abs(np.diff(curve[-max(2, len(curve) // 3) :])) if len(curve) > 1 else np.zeros(1)
    return {"mean": float(steps.mean()), "most": float(steps.max())}


def rate(draws: list[dict], which: str = "right") -> str:
    """In percent, with its interval, over the images of all draws."""
    right, patients = (np.concatenate([draw[name] for draw in draws]) for name in (which, "patients"))
    found = Rate.of(right, np.ones(len(right)), patients)
    return f"{100 * found.value:.1f} ({100 * found.interval[0]:.1f} to {100 * found.interval[1]:.1f})"


def difference(found: dict[str, list[dict]]) -> dict:
    """How much more of the same images the defaults call right than the notebook: a share, with the percentiles of a
    bootstrap over patients, and how many images only one of the two calls right."""
    one, other = (np.concatenate([draw["right"] for draw in found[recipe]]) for recipe in ("default", "notebook"))
    apart, patients = one - other, np.concatenate([draw["patients"] for draw in found["default"]])
    samples = Resamples(patients, 2000).of(lambda weights: {"difference": weights @ apart / weights.sum(axis=1)})[
        "difference"
    ]
    return {
        "difference": float(apart.mean()),
        "interval": percentiles(samples),
        "only": {"default": int((apart > 0).sum()), "notebook": int((apart < 0).sum())},
    }


def rows(found: dict[str, list[dict]]) -> Iterator[str]:
    """Lines of the table: each draw, and the draws together."""
    yield "| recipe | draw | test accuracy, % | at the highest score | AUC | swing of val accuracy | of val AUC | s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for recipe, draws in found.items():
        sums = {name: sum(draw[name] for draw in draws) for name in ("auc", "seconds")}
        swings = {
            name: {
                "mean": np.mean([draw["swing"][name]["mean"] for draw in draws]),
                "most": max(draw["swing"][name]["most"] for draw in draws),
            }
            for name in draws[0]["swing"]
        }
        together = {**sums, "auc": sums["auc"] / len(draws), "swing": swings}
        for name, draw, of in [*((place, draw, [draw]) for place, draw in enumerate(draws)), ("all", together, draws)]:
            moves = [
                f"{draw['swing'][curve]['mean']:.4f}, at most {draw['swing'][curve]['most']:.4f}"
                for curve in ("val_accuracy", "val_auc")
            ]
            yield (
                f"| {recipe} | {name} | {rate(of)} | {rate(of, 'right_at_highest')} "
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


def say_left(found: dict[str, list[dict]], draws: int) -> None:
    """What the trainings so far took, times those that are left."""
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
            spark, deal(patients, seed), IngestConfig(images=str(images), table=str(table), height=150, width=106)
        )
        for recipe in RECIPES:
            found[recipe].append(compare(spark, table, recipe, folder, seed, flags))
            say_left(found, flags.draws)
    spark.stop()
    draw_curves(found, flags.picture)
    apart = difference(found)
    say("\n".join(rows(found)))
    say(
        f"\nThe defaults call {100 * apart['difference']:+.1f} % more of the same images right (95 % interval "
        f"{' to '.join(f'{100 * limit:+.1f}' for limit in apart['interval'] or [])}): {apart['only']['default']} that the notebook does not, "
        f"and not {apart['only']['notebook']} that it does."
    )
    for draw in (draw for draws in found.values() for draw in draws):
        del draw["curves"], draw["patients"]
        draw |= {name: sum(draw[name]) for name in ("right", "right_at_highest")}
    print(json.dumps({**found, "difference": apart}))


if __name__ == "__main__":
    main()
