"""The jobs as a user meets them: help, bad input, exit status, last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxrflow import __main__, __version__
from cxrflow.images.phantoms import PATIENT_RULE

ROOT = Path(__file__).resolve().parents[1]
JOBS = ["ingest", "train", "evaluate", "predict", "report", "vacuum", "demo"]


def cxrflow(*arguments, **options) -> subprocess.CompletedProcess:
    """The finished process of ``python -m cxrflow`` with these arguments."""
    command = [sys.executable, "-m", "cxrflow", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize("job", JOBS)
def test_help_shows_an_example(run_job, job):
    done = run_job(job, "--help")
    assert done.returncode == 0 and "For example: cxrflow" in done.stdout
    advice = "add --master" if job == "demo" else f"spark-submit jobs/{job}.py"
    assert f"On a cluster: {advice}" in done.stdout and (ROOT / "jobs" / f"{job}.py").is_file()


def test_help_of_train_fits_two_screens_and_shows_groups_with_their_choices(run_job, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = run_job("train", "--help").stdout.splitlines()
    assert len(lines) <= 100 and max(map(len, lines)) <= 130
    titles = [line.split()[1] for line in lines if line.startswith("╭")]
    assert titles == ["options", "data", "model", "optimisation", "distribution", "output"]
    assert any("--launcher {local,horovod,horovodrunner,torch}" in line for line in lines)


def test_the_command_lists_its_commands_and_its_version():
    shown = cxrflow("--help")
    listed = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")]
    assert (shown.returncode, listed) == (0, JOBS)
    assert cxrflow("--version").stdout == f"cxrflow {__version__}\n"
    wrong = cxrflow("infer")
    assert (wrong.returncode, wrong.stdout) == (2, "") and "expected one of ingest, train" in wrong.stderr


def test_the_command_line_loads_no_framework():
    code = (
        "import sys, cxrflow.pipeline.cli; print(sorted({'pyspark', 'keras', 'pandas', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_runs_as_a_file_for_spark_submit(tmp_path):
    """Its own folder, which has modules with common names, is not on the path then."""
    main = Path(__main__.__file__)
    done = subprocess.run([sys.executable, main, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"cxrflow {__version__}\n", done.stderr


def bad_inputs(tmp):
    empty, file = tmp / "empty", tmp / "file"
    table, run, images = tmp / "table", tmp / "run", tmp / "images"
    return {
        "missing folder": (
            "ingest",
            ["--images", tmp / "nope", "--table", table],
            "expected a folder of images, found nothing",
        ),
        "a file": ("ingest", ["--images", file, "--table", table], "expected a folder of images, found a file"),
        "empty folder": ("ingest", ["--images", empty, "--table", table], "is an empty folder"),
        "size of 0": (
            "ingest",
            ["--images", images, "--table", table, "--height", 0],
            "expected a number above 0, got 0",
        ),
        "split": ("ingest", ["--images", images, "--table", table, "--split", "0.5,0.2"], "expected three fractions"),
        "no labels file": (
            "ingest",
            ["--images", images, "--table", table, "--labels", "l.csv"],
            "expected a CSV or Parquet file",
        ),
        "unknown flag": ("ingest", ["--images", images, "--tabel", table], "--tabel"),
        "no table": ("train", ["--table", empty, "--run", run], "found no manifest.json"),
        "unknown launcher": (
            "train",
            ["--table", empty, "--run", run, "--launcher", "mpi"],
            "expected one of local, horovod, horovodrunner, torch",
        ),
        "unknown model": (
            "train",
            ["--table", empty, "--run", run, "--model", "vgg"],
            "expected one of residual, resnetd, plain, notebook",
        ),
        "no run": ("evaluate", ["--run", empty, "--table", table], "expected a run directory with config.json"),
        "unknown split": (
            "evaluate",
            ["--run", run, "--table", table, "--split", "dev"],
            "expected one of train, val, test, all",
        ),
        "no run to predict": (
            "predict",
            ["--run", empty, "--images", images, "--predictions", tmp / "p"],
            "expected a run directory",
        ),
        "no run to report": ("report", ["--run", empty], "run train first"),
        "a folder that no demo made": ("demo", ["--folder", tmp], "one that a demo made"),
        "no images to demo": (
            "demo",
            ["--images", tmp / "nope", "--folder", tmp / "demo"],
            "expected a folder of images",
        ),
    }


@pytest.mark.parametrize("case", bad_inputs(Path("/")))
def test_bad_input_is_one_sentence_and_exit_status_2_before_anything_is_written(run_job, tmp_path, case):
    (tmp_path / "empty").mkdir()
    (tmp_path / "images" / "A").mkdir(parents=True)
    (tmp_path / "images" / "A" / "0.png").write_bytes(b"")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    job, arguments, words = bad_inputs(tmp_path)[case]
    done = run_job(job, *arguments, timeout=60)
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2, done.stderr
    assert words in said and "Traceback" not in said and "at org.apache" not in said
    assert done.stdout == "" and sorted(tmp_path.rglob("*")) == before


def test_what_only_spark_can_see_is_still_one_sentence(run_job, tmp_path):
    (tmp_path / "images" / "A" / "B").mkdir(parents=True)
    done = run_job("ingest", "--images", tmp_path / "images", "--table", tmp_path / "table")
    assert done.returncode == 2 and "Traceback" not in done.stderr and "org.apache" not in done.stderr
    assert "expected image files, but there is none below" in done.stderr and not (tmp_path / "table").exists()


def test_the_last_line_of_standard_output_is_the_result(run_job, phantoms, tmp_path):
    done = run_job(
        "ingest",
        "--images",
        phantoms,
        "--table",
        tmp_path / "table",
        "--patients",
        PATIENT_RULE,
        "--height",
        16,
        "--width",
        16,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["files"], result["samples"], result["quarantined"]) == (52, 48, 4)
    assert {"train", "val", "test"} == set(result["counts"]) and result["seconds"] > 0
    assert result["manifest"] == str(tmp_path / "table" / "manifest.json") and Path(result["manifest"]).exists()
