"""Draw the loss of every step for the same training on 1, 2 and 4 workers and on both backends.

The feed gives the same global batches for any number of workers, augmentation depends on the sample only, and initial
weights are the same on both backends. So a model without batch normalisation and dropout (plain) follows the same
trajectory up to rounding. A control shows how much rounding does: one worker that takes the rows of each batch in
reverse, so that only the order of sums differs. In the residual model, batch normalisation uses a worker's part of the
batch, and dropout differs by worker. Its curves only stay near each other. For example:

    python tests/benchmarks/loss_curves.py --epochs 4 --launcher horovod

The table has the 5,216 real files at 64 x 64 px. It is ingested once below build/, unless --table names one. Prints the
result table to standard error and one line of JSON to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from ingest import DATA, say, stop
from program import ROOT
from real_runs import IMAGES

SIZE = 64
TABLE = ROOT / "build" / f"curves-table-{SIZE}"
GLOBAL_BATCH = 32
WORKERS = (1, 2, 4)
MODELS = ("plain", "residual")
LAUNCHERS = ("horovod", "torch")
CONTROL = "1 worker, rows reversed"


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each run (4)")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="horovod",
        help="how workers start (horovod); one run of two workers uses the other",
    )
    parser.add_argument("--table", type=Path, help=f"cxrflow table with splits train and val (makes {TABLE})")
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"folder with {IMAGES} (CXRFLOW_BENCHMARK_DATA, or {DATA})"
    )
    parser.add_argument(
        "--picture", type=Path, default=ROOT / "docs" / "benchmarks" / "loss-curves.png", help="picture to write"
    )
    return parser.parse_args()


def open_local_session():
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        f"--master local[{max(WORKERS)}] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.ui.showConsoleProgress=false pyspark-shell"
    )
    return open_session("cxrflow loss curves")


def record(reverse: bool):
    """Return a training function for launchers, whose result has the loss of every step over all workers."""

    def train(config, worker) -> dict:
        import keras
        import numpy as np

        from cxrflow.training.fit import fit

        losses = []
        train_on_batch = keras.Model.train_on_batch

        def record_loss(model, *batch, **options):
            batch = [part[::-1].copy() for part in batch] if reverse else batch
            logs = train_on_batch(model, *batch, **options)
            losses.append(float(logs["loss"]))
            return logs

        keras.Model.train_on_batch = record_loss
        try:
            summary = fit(config, worker)
        finally:
            keras.Model.train_on_batch = train_on_batch
        return {**summary, "losses": worker.all_reduce_mean([np.array(losses)])[0].tolist()}

    return train


def run(
    spark, table: Path, folder: Path, model: str, workers: int, launcher: str, epochs: int, reverse: bool = False
) -> dict:
    from cxrflow.base.config import TrainConfig
    from cxrflow.launch.supervisor import supervise

    config = TrainConfig(
        table=str(table),
        run=str(folder),
        model=model,
        launcher=launcher,
        workers=workers,
        seed=1,
        epochs=epochs,
        batch_size=GLOBAL_BATCH // workers,
        lr_scaling="none",
    )
    return supervise(spark, config, record(reverse), lambda config, slots: config, lambda event: None, lambda: None)


def largest_difference(found: dict[str, dict], steps: int | None = None) -> dict[str, float]:
    """Return the largest relative difference of each run from one worker, over the first steps."""
    first = np.array(found["1 worker"]["losses"])[:steps]
    return {name: float(np.max(np.abs(np.array(run["losses"])[:steps] - first) / first)) for name, run in found.items()}


def draw(found: dict[str, dict[str, dict]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    # Line styles differ too, for readers who do not see the colours.
    styles = dict(
        zip(
            found[MODELS[0]],
            [
                ("#0072b2", "-", 4),
                ("#e69f00", "--", 2),
                ("#000000", ":", 1.3),
                ("#cc79a7", "-.", 1.3),
                ("#999999", "-", 1),
            ],
            strict=True,
        )
    )
    for axis, model in zip(axes, MODELS, strict=False):
        for name, result in found[model].items():
            color, line, width = styles[name]
            smooth = np.convolve(result["losses"], np.ones(10) / 10, "valid")
            axis.plot(np.arange(len(smooth)) + 10, smooth, color=color, linestyle=line, linewidth=width, label=name)
        axis.set(title=f"{model}: loss, mean of 10 steps", xlabel="step", ylabel="nats")
        axis.legend(frameon=False, fontsize=8)
    first = np.array(found["plain"]["1 worker"]["losses"])
    for name, result in list(found["plain"].items())[1:]:
        color, line, _ = styles[name]
        difference = np.maximum(np.abs(np.array(result["losses"]) - first) / first, 1e-8)
        axes[2].semilogy(np.arange(len(first)) + 1, difference, color=color, linestyle=line, linewidth=1, label=name)
    axes[2].set(title="plain: relative difference from 1 worker", xlabel="step")
    axes[2].legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=110)


def main() -> None:
    flags = parse_flags()
    table = flags.table or TABLE
    if not (table / "manifest.json").exists() and (flags.table or not (flags.data / IMAGES).is_dir()):
        stop(f"expected a table at {table} or the folder {flags.data / IMAGES}, found neither")
    from cxrflow.base.config import IngestConfig
    from cxrflow.pipeline.ingest_job import ingest

    spark = open_local_session()
    if not (table / "manifest.json").exists():
        ingest(
            spark,
            IngestConfig(
                images=str(flags.data / IMAGES), table=str(table), height=SIZE, width=SIZE, split="0.6,0.2,0.2"
            ),
        )
    other = next(name for name in LAUNCHERS if name != flags.launcher)
    found: dict[str, dict[str, dict]] = {model: {} for model in MODELS}
    with tempfile.TemporaryDirectory(prefix="loss-curves-", dir=ROOT / "build") as scratch:
        for model in MODELS:
            for workers in WORKERS:
                name = f"{workers} worker{'s' if workers > 1 else ''}"
                found[model][name] = run(
                    spark,
                    table.resolve(),
                    Path(scratch, f"{model}-{workers}"),
                    model,
                    workers,
                    flags.launcher,
                    flags.epochs,
                )
            found[model][f"2 workers, {other}"] = run(
                spark, table.resolve(), Path(scratch, f"{model}-{other}"), model, 2, other, flags.epochs
            )
        found["plain"][CONTROL] = run(
            spark, table.resolve(), Path(scratch, "control"), "plain", 1, flags.launcher, flags.epochs, reverse=True
        )
    spark.stop()
    draw(found, flags.picture)
    steps = len(found["plain"]["1 worker"]["losses"]) // flags.epochs
    say("\n| model | run | " + " | ".join(f"epoch {n + 1}" for n in range(flags.epochs)) + " | best val AUC |")
    say("| --- | --- |" + " ---: |" * (flags.epochs + 1))
    for model, runs in found.items():
        for name, result in runs.items():
            means = np.array(result["losses"]).reshape(flags.epochs, steps).mean(axis=1)
            say(
                f"| {model} | {name} | " + " | ".join(f"{mean:.5f}" for mean in means) + f" | {result['val_auc']:.4f} |"
            )
    print(
        json.dumps(
            {
                "launcher": flags.launcher,
                "epochs": flags.epochs,
                "global_batch": GLOBAL_BATCH,
                "steps": steps,
                "difference_first_20_steps": {model: largest_difference(runs, 20) for model, runs in found.items()},
                "difference_first_epoch": {model: largest_difference(runs, steps) for model, runs in found.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
