"""Package metadata. Ranges here are wide; ``requirements*.lock`` pin what ``make setup`` installs.

Lower bounds of the packages that read files of others (images, DICOM, Parquet, models) are versions without a known
fault that runs code or corrupts memory. ``cxrflow.base.secure_versions`` warns where a runtime brings an older one.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

# The version stands once, in the package. It is read as text: importing the package would need its dependencies.
VERSION = re.search(
    r'__version__ = "(.+)"', Path(__file__).with_name("lib").joinpath("cxrflow/__init__.py").read_text()
)[1]

EXTRAS = {
    # Databricks and most clusters bring their own Spark, so it is not a hard dependency.
    "spark": ["pyspark>=3.5,<5"],
    # The two stacks of `make setup`; each of them implies the extra "spark". Spark 3.5 calls functions that pandas 3
    # removed. Petastorm 0.13 uses a dataset API that pyarrow 15 removed, and pyarrow 14 needs NumPy 1.
    "classic": ["pyspark>=3.5,<4", "petastorm>=0.12.1,<0.14", "pyarrow<15", "numpy<2", "pandas<3"],
    # Spark 4.1 and later need pyarrow 15 and pandas 2.2.
    "current": ["pyspark>=4,<5", "pyarrow>=18", "numpy>=2", "pandas>=2.2"],
    # OpenCV 4.12 and later need NumPy 2.
    "train": ["keras>=3.14.1,<3.16", "opencv-python-headless>=4.8,<5"],
    # Horovod 0.28.1, the last release, does not compile against TensorFlow 2.19.
    "tensorflow": ["tensorflow-cpu>=2.16,<2.19"],
    "horovod": ["horovod>=0.28.1,<0.29", "tensorflow-cpu>=2.16,<2.19"],
    "torch": ["torch>=2.10"],
    "delta": ["deltalake>=1"],
    # Its releases go with fsspec's of the same name.
    "s3": ["s3fs>=2025.2"],
    # Watching a training. Both are on Databricks' ML runtimes.
    "tensorboard": ["tensorboard>=2.14"],
    "mlflow": ["mlflow-skinny>=2.13"],
    "report": ["matplotlib>=3.7", "jinja2>=3.1"],
    # Every transfer syntax in use; pylibjpeg-libjpeg would add little and is under the GPL.
    "dicom": [
        "pydicom>=3.0.2",
        "pylibjpeg>=2",
        "pylibjpeg-openjpeg>=2.3",
        "pylibjpeg-rle>=2",
        "pyjpegls>=1.2",
        "python-gdcm>=3.2.6,<3.2.10",
        # Lossless JPEG and JPEG XL. From 2026.3 on, it needs NumPy 2.
        "imagecodecs>=2025.8.2",
    ],
    # moto's server speaks S3 to the tests.
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.5",
        "pytest-timeout>=2.3",
        "hypothesis>=6",
        "pyyaml>=6",
        "moto[s3]>=5.0.20",
        "flask>=3",
        "flask-cors>=5",
    ],
}
# What `make lint` runs.
EXTRAS["lint"] = ["ruff>=0.14", "mypy>=1.18", "import-linter>=2.5", "pre-commit>=4"]
# What `make lock` pins for each stack. Horovod holds TensorFlow at 2.18, which needs a NumPy below 2.1.
CLASSIC_ONLY, CURRENT_ONLY = {"classic", "tensorflow", "horovod"}, {"current"}
EXTRAS["all-classic"] = sorted({need for name in EXTRAS.keys() - CURRENT_ONLY for need in EXTRAS[name]})
EXTRAS["all-current"] = sorted(
    {need for name in EXTRAS.keys() - CLASSIC_ONLY - {"all-classic"} for need in EXTRAS[name]}
)

setup(
    name="cxrflow",
    version=VERSION,
    description="Train and apply chest X-ray classifiers on a Spark cluster",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    package_dir={"": "lib"},
    packages=find_packages("lib"),
    package_data={"cxrflow": ["py.typed"], "cxrflow.report": ["*.html"], "cxrflow.spark": ["conf/*"]},
    entry_points={"console_scripts": ["cxrflow = cxrflow.pipeline.cli:main"]},
    install_requires=[
        "duckdb>=1.4,<3",  # the catalog of an ingest
        "fsspec>=2023.1",
        "numpy>=1.23",
        "pandas>=1.5,<4",
        "pillow>=13.0.0",
        "pyarrow>=14.0.1",
        "scikit-learn>=1.2",
        "scipy>=1.9",
        "simplejpeg>=1.7",  # libjpeg-turbo
        "tyro>=0.9",
    ],
    extras_require=EXTRAS,
)
