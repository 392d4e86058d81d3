"""What tests share: real X-rays where they are, synthetic phantoms, one Spark session, one small table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A test's JVMs live for seconds. Java's second compiler pays only after minutes and would take a third of their time.
# Verifying Spark's own bytecode and starting threads to collect garbage would take a fifth of the rest.
# Spark's web page takes a tenth of its start.
os.environ.setdefault(
    "JAVA_TOOL_OPTIONS",
    "-XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote -XX:+UseSerialGC "
    "-Dspark.ui.enabled=false",
)

# The many processes of these tests import the package from compiled files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
TIERS = ("unit", "spark", "cluster")


def pytest_configure(config):
    # pytest undoes the filter of the Petastorm reader, which says why.
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning:petastorm")


def pytest_collection_modifyitems(items):
    """Give each test its tier, and begin with the longest ones, so that the processes that share them end together."""
    for item in items:
        tiers = {mark.name for mark in item.iter_markers() if mark.name in TIERS}
        if len(tiers) > 1:
            raise pytest.UsageError(
                f"{item.nodeid}: expected one of the markers {', '.join(TIERS)}; got {sorted(tiers)}"
            )
        if not tiers:
            # These fixtures start Spark, in this process or in one of its own.
            item.add_marker("spark" if {"spark", "run_job"} & set(item.fixturenames) else "unit")
    items.sort(key=lambda item: -max(TIERS.index(mark.name) for mark in item.iter_markers() if mark.name in TIERS))


def shared_images(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the real X-rays are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Real X-rays at full resolution, in NORMAL and PNEUMONIA."""
    return shared_images("chest_xray_full")


@pytest.fixture(scope="session")
def kermany() -> Path:
    """The same collection, whole and small: 224x224, in NORMAL and PNEUMONIA."""
    return shared_images("chest_xray_224")


@pytest.fixture(params=["petastorm", "arrow"])
def reader(request, monkeypatch) -> str:
    """Each implementation of the shard reader, as the one that a feed chooses."""
    from cxrflow.training import shard_reader

    if request.param == "petastorm" and shard_reader.default_reader() != "petastorm":
        pytest.skip("Petastorm is not installed, or not with a pyarrow that it runs with")
    monkeypatch.setattr(shard_reader, "default_reader", lambda: request.param)
    return request.param


@pytest.fixture(scope="session")
def spark():
    """A real session with two task slots, as a notebook would hand it to the library."""
    from cxrflow.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = "--master local[2] --driver-memory 1g pyspark-shell"
    session = open_session("cxrflow tests")
    yield session
    session.stop()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """48 synthetic phantoms of 24 patients and four broken files."""
    from cxrflow.images.phantoms import make_phantoms

    folder = tmp_path_factory.mktemp("phantoms") / "synthetic"
    make_phantoms(str(folder), patients=24, images_per_patient=2, seed=3)
    return folder


@pytest.fixture(scope="session")
def table(spark, phantoms, tmp_path_factory) -> Path:
    """The phantoms as a table of 48x40 pixels, in shards of 6 rows."""
    from cxrflow.base.config import IngestConfig
    from cxrflow.images.phantoms import PATIENT_RULE
    from cxrflow.pipeline.ingest_job import ingest

    path = tmp_path_factory.mktemp("table") / "table"
    ingest(
        spark,
        IngestConfig(
            images=str(phantoms),
            table=str(path),
            height=48,
            width=40,
            shard_rows=6,
            split="0.6,0.2,0.2",
            patients=PATIENT_RULE,
        ),
    )
    return path


@pytest.fixture(scope="session")
def run_job():
    """Start a job as a user would: ``run_job("train", "--epochs", 3)`` returns the finished process."""

    def run(job: str, *arguments, timeout: float = 300) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
        )

    return run
