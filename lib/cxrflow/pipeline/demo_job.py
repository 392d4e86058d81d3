"""Every job in turn, each in a process of its own, as a user would start them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cxrflow
from cxrflow.base.config import DemoConfig
from cxrflow.base.errors import UserError
from cxrflow.base.extras import require_modules
from cxrflow.images.phantoms import PATIENT_RULE, make_phantoms
from cxrflow.launch import find_launcher

log = logging.getLogger(__name__)

MARK = ".cxrflow-demo"
"""A file that shows that a demo made the folder."""


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run ingest, train, evaluate, predict and report in ``config.folder``, on synthetic phantoms or given images.

    Returns the headline figures. Raises UserError for bad input, and SystemExit with a failed job's exit status.
    """
    find_launcher(config.launcher)
    require_modules("cxrflow demo", "pyspark", "jinja2", "matplotlib")  # now, not after the training
    if config.images is not None and not Path(config.images).is_dir():
        raise UserError(f"--images: expected a folder of images with one subfolder per label, got {config.images!r}")
    folder = _own_folder(config)
    images, new_images, split = _images(config, folder)
    table, run, predictions = folder / "table", folder / "run", folder / "predictions"
    training = ["--launcher", config.launcher, "--workers", config.workers, "--epochs", config.epochs]
    if config.positive_label is not None:
        training += ["--positive-label", config.positive_label]
    size = ["--height", config.size, "--width", config.size]
    overwrite = ["--if-exists", "overwrite"]
    steps: dict[str, list[object]] = {
        "ingest": ["--images", images, "--table", table, *size, *split, *overwrite],
        "train": ["--table", table, "--run", run, *training, *overwrite],
        "evaluate": ["--run", run, "--table", table, "--split", "test"],
        "predict": ["--run", run, "--images", new_images, "--predictions", predictions, *overwrite],
        "report": ["--run", run, "--predictions", predictions],
    }
    results: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    for job, arguments in steps.items():
        started = time.monotonic()
        results[job] = _run_job(config, job, [str(argument) for argument in arguments])
        seconds[job] = round(time.monotonic() - started, 1)
    log.info("\n%s", "\n".join(table_lines(results, seconds)))
    figures = {
        name: results["evaluate"][name] for name in ("n", "auc", "auc_interval", "accuracy", "accuracy_interval")
    }
    return {**figures, "seconds": seconds, "run": results["train"]["run"], "report": results["report"]["report"]}


def table_lines(results: dict[str, dict[str, Any]], seconds: dict[str, float]) -> list[str]:
    """The table at the demo's end: one row per job with its seconds, its result and where that is."""
    ingest, train, evaluate, predict, report = results.values()
    rows = [
        ("job", "seconds", "result", "where"),
        ("ingest", "", f"{ingest['samples']:,} images, {ingest['quarantined']:,} files in quarantine", ingest["table"]),
        ("train", "", f"{train['epochs']} epochs, validation AUC {train['val_auc']:.3f}", train["run"]),
        ("evaluate", "", _quality(evaluate), evaluate["metrics"]),
        (
            "predict",
            "",
            f"{predict['scored']:,} images scored, {predict['unreadable']:,} files not readable",
            predict["predictions"],
        ),
        ("report", "", "open it in a browser", report["report"]),
    ]
    rows = [(job, f"{seconds[job]:.1f}" if job in seconds else spent, *rest) for job, spent, *rest in rows]
    width = max(len(row[2]) for row in rows)
    return [f"{job:<9} {spent:>8}  {result:<{width}}  {url}" for job, spent, result, url in rows]


def _quality(figures: dict[str, Any]) -> str:
    """AUC and accuracy with their intervals. A test split with one label has no AUC."""

    def text(name: str) -> str:
        if figures[name] is None:
            return "none"
        low, high = figures[f"{name}_interval"] or (float("nan"), float("nan"))
        return f"{figures[name]:.3f} ({low:.3f} to {high:.3f})"

    return f"AUC {text('auc')}, accuracy {text('accuracy')} on {figures['n']:,} test images"


def _own_folder(config: DemoConfig) -> Path:
    """The demo's folder. The demo replaces what is in it, so it must be new or made by a demo."""
    folder = Path(config.folder).resolve()
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise UserError(
            f"--folder: expected a new folder or one that a demo made, but {str(folder)!r} holds something else, which "
            "stays as it is; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Made by cxrflow's demo, which replaces what is in here.\n")
    return folder


def _images(config: DemoConfig, folder: Path) -> tuple[Path, Path, list[object]]:
    """(images to train on, images to predict, ingest's flags for patients and splits).

    The phantoms to predict show other patients than those to train on.
    """
    if config.images is not None:
        return Path(config.images).resolve(), Path(config.images).resolve(), []
    known, new = folder / "synthetic-phantoms", folder / "synthetic-phantoms-unseen"
    for path, patients, seed in ((known, 360, 0), (new, 24, 1)):
        shutil.rmtree(path, ignore_errors=True)
        started = time.monotonic()
        files = make_phantoms(str(path), patients=patients, seed=seed)
        log.info("drew %d synthetic phantoms in %s (%.0f s)", files, path, time.monotonic() - started)
    # A tenth of the phantoms would be few to test on.
    return known, new, ["--patients", PATIENT_RULE, "--split", "0.6,0.2,0.2"]


def job_environment(config: DemoConfig) -> dict[str, str]:
    """The environment of a job's process: its Spark settings, and the same cxrflow as in this process.

    Under spark-submit, two variables name the JVM of this process. The jobs must not connect to it, because each starts
    its own.
    """
    master = config.master or f"local[{max(config.workers, os.cpu_count() or 1)}]"
    package_folder = str(Path(cxrflow.__file__).resolve().parents[1])
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYSPARK_GATEWAY_")},
        "PYSPARK_SUBMIT_ARGS": f"--master {master} --driver-memory {config.driver_memory} pyspark-shell",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")])),
    }


def _run_job(config: DemoConfig, job: str, arguments: list[str]) -> dict[str, Any]:
    """Run one job in a process of its own and return its JSON. Its other output goes to our standard error."""
    log.info("\n$ cxrflow %s %s", job, " ".join(arguments))
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrflow", job, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=job_environment(config),
    )
    try:
        output = process.communicate()[0]
    finally:
        process.wait()
    if process.returncode != 0:
        log.error("demo: cxrflow %s ended with exit status %d", job, process.returncode)
        sys.exit(process.returncode)
    return json.loads(output.splitlines()[-1])
