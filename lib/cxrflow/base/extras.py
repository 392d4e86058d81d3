"""The packages that come with cxrflow's extras, and one sentence for each that is missing. Imports none of them."""

from __future__ import annotations

import importlib.util

from cxrflow.base.errors import UserError

EXTRAS = {
    "pyspark": ("pyspark", "spark"),
    "keras": ("keras", "train"),
    "petastorm": ("petastorm", "classic"),
    "cv2": ("opencv-python-headless", "train"),
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
    "torch": ("torch", "torch"),
    "horovod": ("horovod", "horovod"),
    "deltalake": ("deltalake", "delta"),
    "s3fs": ("s3fs", "s3"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow-skinny", "mlflow"),
    "matplotlib": ("matplotlib", "report"),
    "jinja2": ("jinja2", "report"),
    "pydicom": ("pydicom", "dicom"),
    "gdcm": ("python-gdcm", "dicom"),
    "openjpeg": ("pylibjpeg-openjpeg", "dicom"),
    "jpeg_ls": ("pyjpegls", "dicom"),
    "rle": ("pylibjpeg-rle", "dicom"),
    "imagecodecs": ("imagecodecs", "dicom"),
}
"""By module: the package that has it, and the extra in setup.py that installs the package."""


def missing_package(subject: str, module: str | None, otherwise: str = "") -> UserError | None:
    """The error for a module that cannot be imported; None if the module, or the package it is in, is of no extra.

    Args:
        subject: What needs the package: a flag or a command.
        module: A module's name, such as ``keras.layers``.
        otherwise: What else the user can do, such as ``omit --mlflow``.
    """
    top = (module or "").partition(".")[0]
    if top not in EXTRAS:
        return None
    package, extra = EXTRAS[top]
    other = f", or {otherwise}" if otherwise else ""
    return UserError(f'{subject}: expected the package {package}, found none; pip install "cxrflow[{extra}]"{other}')


def require_modules(subject: str, *modules: str, otherwise: str = "") -> None:
    """Raise the error of ``missing_package`` for the first of these top-level modules that is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            error = missing_package(subject, module, otherwise)
            assert error is not None, f"{module} is in no extra"
            raise error
