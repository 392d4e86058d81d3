"""Every job in turn, each through spark-submit, as a user would start them. Standard library only, but for phantoms."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cxrflow.base.config import DemoConfig
from cxrflow.base.errors import UserError
from cxrflow.images.phantoms import PATIENT_RULE, make_phantoms
from cxrflow.launch import find_launcher

log = logging.getLogger(__name__)

MARK = ".cxrflow-demo"
JOBS = Path(__file__).resolve().parents[2] / "jobs"


def run_demo(config: DemoConfig) -> dict:
    """Run ingest, train, evaluate, predict and report in ``config.folder``, on synthetic phantoms or given images.

    Returns each job's result and seconds, and the report's place. Raises UserError for bad input, and
    SystemExit with the job's exit status where one fails.
    """
    find_launcher(config.launcher)
    if config.images is not None and not Path(config.images).is_dir():
        raise UserError(f"--images: expected a folder of images with one subfolder a label, got {config.images!r}")
    folder = _own_folder(config)
    images, unseen, dealing = _images(config, folder)
    table, run, predictions = folder / "table", folder / "run", folder / "predictions"
    steps = {
        "ingest": [
            "--images",
            images,
            "--table",
            table,
            "--height",
            config.size,
            "--width",
            config.size,
            *dealing,
            "--if-exists",
            "overwrite",
        ],
        "train": [
            "--table",
            table,
            "--run",
            run,
            "--launcher",
            config.launcher,
            "--workers",
            config.workers,
            "--epochs",
            config.epochs,
            "--if-exists",
            "overwrite",
        ],
        "evaluate": ["--run", run, "--table", table, "--split", "test"],
        "predict": ["--run", run, "--images", unseen, "--predictions", predictions, "--if-exists", "overwrite"],
        "report": ["--run", run, "--predictions", predictions],
    }
    results: dict[str, dict] = {}
    for job, arguments in steps.items():
        started = time.monotonic()
        result = _submit(config, job, [str(argument) for argument in arguments])
        results[job] = {**result, "wall_seconds": round(time.monotonic() - started, 1)}
    _say_end(results)
    return results


def _own_folder(config: DemoConfig) -> Path:
    """The demo's folder. It replaces what it finds there, so it must be one that a demo made."""
    folder = Path(config.folder).resolve()
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise UserError(
            f"--folder: expected a new folder or one that a demo made, but {str(folder)!r} holds something "
            "else, which is left alone; name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Made by cxrflow's demo, which replaces what is in here.\n")
    return folder


def _images(config: DemoConfig, folder: Path) -> tuple[Path, Path, list[str]]:
    """(images to train on, images to predict, how ingest deals the first). Phantoms to predict are of other patients."""
    if config.images is not None:
        return Path(config.images).resolve(), Path(config.images).resolve(), []
    known, unseen = folder / "synthetic-phantoms", folder / "synthetic-phantoms-unseen"
    for place, patients, seed in ((known, 360, 0), (unseen, 24, 1)):
        shutil.rmtree(place, ignore_errors=True)
        started = time.monotonic()
        files = make_phantoms(str(place), patients=patients, seed=seed)
        log.info("drew %d synthetic phantoms in %s (%.0f s)", files, place, time.monotonic() - started)
    return known, unseen, ["--patients", PATIENT_RULE, "--split", "0.6,0.2,0.2"]  # a tenth of them would be few to test


def _submit(config: DemoConfig, job: str, arguments: list[str]) -> dict:
    """Run one job through spark-submit, passing on what it prints; returns its JSON."""
    master = config.master or f"local[{max(config.workers, os.cpu_count() or 1)}]"
    command = [
        "spark-submit",
        "--master",
        master,
        "--driver-memory",
        config.driver_memory,
        str(JOBS / f"{job}.py"),
        *arguments,
    ]
    log.info("\n$ %s", " ".join(command))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    result = ""
    try:
        for line in process.stdout:
            sys.stderr.write(line)
            # spark-submit mixes what Python says on standard error into standard output.
            result = line if line.startswith("{") else result
    finally:
        status = process.wait()
    if status != 0:
        log.error("demo: jobs/%s.py ended with exit status %d", job, status)
        sys.exit(status)
    return json.loads(result)


def _say_end(results: dict[str, dict]) -> None:
    figures = results["evaluate"]
    log.info("\n%-9s %8s", "job", "seconds")
    for job, result in results.items():
        log.info("%-9s %8.1f", job, result["wall_seconds"])
    low, high = figures["accuracy_interval"]
    area = figures["auc_interval"] or [float("nan")] * 2
    log.info("\ntest split: %d images of %d patients", figures["n"], figures["patients"])
    log.info(
        "AUC %.3f (95 %% interval %.3f to %.3f), accuracy %.3f (95 %% interval %.3f to %.3f)",
        figures["auc"] or float("nan"),
        *area,
        figures["accuracy"],
        low,
        high,
    )
    log.info("report: %s", results["report"]["report"])
