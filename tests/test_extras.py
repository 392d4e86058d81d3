"""A package that is missing is one sentence with the extra that installs it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cxrflow.base.errors import UserError
from cxrflow.base.extras import EXTRAS, missing_package, require_modules

SETUP = Path(__file__).resolve().parents[1] / "setup.py"


def extras_of_setup() -> dict[str, list[str]]:
    for node in ast.parse(SETUP.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no EXTRAS")


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_installs_the_package(module):
    package, extra = EXTRAS[module]
    assert any(need.startswith(f"{package}>") for need in extras_of_setup()[extra])


def test_the_sentence():
    error = missing_package("cxrflow report", "matplotlib.pyplot")
    assert str(error) == 'cxrflow report: expected the package matplotlib, found none; pip install "cxrflow[report]"'
    assert missing_package("cxrflow report", "cxrflow.nothing") is missing_package("x", None) is None


def test_installed_modules_pass_and_the_first_missing_one_is_named(monkeypatch):
    require_modules("--flag", "torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'^--flag: expected the package torch, .* "cxrflow\[torch\]", or omit --flag$'):
        require_modules("--flag", "torch", otherwise="omit --flag")


COMMANDS = {
    "pyspark": [
        ("ingest", "--images i --table t", "cxrflow ingest"),
        ("evaluate", "--run r --table t", "cxrflow evaluate"),
        ("predict", "--run r --images i --predictions p", "cxrflow predict"),
        ("demo", "--folder f", "cxrflow demo"),
        ("train", "--table t --run r --launcher torch --workers 2", "--launcher torch"),
    ],
    "jinja2": [("report", "--run r", "cxrflow report"), ("demo", "--folder f", "cxrflow demo")],
    "matplotlib": [("report", "--run r", "cxrflow report")],
    "keras": [("train", "--table t --run r", "--launcher local")],
    "tensorflow": [
        ("train", "--table t --run r --launcher horovod --workers 2", "--launcher horovod"),
        ("demo", "--folder f --launcher horovod --workers 2", "--launcher horovod"),
    ],
    "torch": [("train", "--table t --run r --launcher torch --workers 2", "--launcher torch")],
    "cv2": [("train", "--table t --run r --augment light", "--augment light")],
    "mlflow": [("train", "--table t --run r --mlflow x", "--mlflow")],
    "deltalake": [("ingest", "--images i --table t --delta", "--delta")],
}


@pytest.mark.parametrize(
    ("module", "command", "flags", "subject"),
    [(module, *row) for module, rows in COMMANDS.items() for row in rows],
)
def test_a_command_without_a_package_says_so_and_writes_nothing(tmp_path, module, command, flags, subject):
    (tmp_path / "i" / "A").mkdir(parents=True)
    (tmp_path / "i" / "A" / "0.png").write_bytes(b"")
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"from cxrflow.pipeline.cli import run_job\nrun_job({command!r}, {flags.split()!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    package, extra = EXTRAS[module]
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [tmp_path / "i"])
    assert done.stderr.startswith(
        f'error: {subject}: expected the package {package}, found none; pip install "cxrflow[{extra}]"'
    )
    assert done.stderr.count("\n") == 1
