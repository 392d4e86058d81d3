"""A user's keras.json changes nothing that a run computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cxrflow.base import keras_settings
from cxrflow.base.keras_settings import local_backend, overridden_settings
from cxrflow.preflight.judge import judge_keras
from synthetic_table import make_table

ODD = {"floatx": "float64", "epsilon": 0.1, "backend": "jax", "image_data_format": "channels_first"}
PLAIN = {"floatx": "float32", "epsilon": 1e-7, "backend": "tensorflow", "image_data_format": "channels_last"}

ALL = """
import json, os, sys
import keras
import numpy as np
from cxrflow.base.config import TrainConfig
from cxrflow.launch.local import launch
from cxrflow.spark.scorer import _load
from cxrflow.training.fit import fit
from cxrflow.training.smoke_step import run_step

table, folder, model, backend = sys.argv[1:]
before = keras.config.floatx(), keras.config.image_data_format()
config = TrainConfig(table=table, run=folder, epochs=1, batch_size=4, tta=1)
result = launch(fit, config, lambda event: None, lambda: None)
assert before == (keras.config.floatx(), keras.config.image_data_format())  # a notebook's settings are as they were
found = {"trained": {name: result[name] for name in ("val_auc", "val_loss", "threshold")}}

found["step"] = run_step(TrainConfig(table=table, run="/unused"))["loss"]
with open(os.environ["KERAS_HOME"] + "/keras.json") as file:  # as if the process had just started
    user = json.load(file)
for name in ("floatx", "epsilon", "image_data_format"):
    getattr(keras.config, f"set_{name}")(user[name])
keras.config.set_dtype_policy(user["floatx"])

with open(model, "rb") as file:
    scorer = _load(file.read(), backend)
pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 1), np.uint8)
found["scores"] = np.asarray(scorer.predict_on_batch(pixels)).tolist()
print(json.dumps(found))
"""


def run(code, folder, backend, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_HOME": str(folder), "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def homes(tmp_path):
    for name, settings in (("plain", PLAIN), ("odd", ODD)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keras.json").write_text(json.dumps(settings))
    return tmp_path / "plain", tmp_path / "odd"


@pytest.mark.spark
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_training_and_scoring_do_not_depend_on_it(homes, tmp_path, backend):
    make_table(tmp_path / "table", {"train": [6, 6], "val": [6, 6]}, height=32, width=40)
    model = tmp_path / "plain" / "run" / "model.keras"
    plain, odd = (
        run(ALL, home, backend, tmp_path / "table", tmp_path / home.name / "run", model, backend) for home in homes
    )
    assert odd["trained"] == pytest.approx(plain["trained"])
    assert odd["step"] == pytest.approx(plain["step"], rel=1e-3)
    assert np.allclose(odd["scores"], plain["scores"], atol=1e-6)


def test_what_is_overridden_is_found_without_keras(homes, monkeypatch, tmp_path):
    plain, odd = homes
    monkeypatch.setenv("KERAS_HOME", str(odd))
    assert overridden_settings() == {"floatx": "float64", "epsilon": 0.1, "image_data_format": "channels_first"}
    monkeypatch.setenv("KERAS_HOME", str(plain))
    assert overridden_settings() == {}
    (plain / "keras.json").write_text("[")
    assert overridden_settings() == {}
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
    assert overridden_settings() == {}


def test_preflight_shows_it():
    task = {"host": "a", "keras": {"overridden": {"floatx": "float64"}, "seconds": 0.0}}
    row = judge_keras([task, {"host": "b"}])
    assert row.state == "note" and row.found == "keras.json says floatx float64 on a"
    assert row.advice == "nothing: training and scoring use float32, 1e-07, channels_last instead"
    assert judge_keras([{"host": "b", "keras": {"overridden": {}, "seconds": 0.0}}]).state == "ok"


@pytest.mark.parametrize(
    ("installed", "asked", "backend"),
    [
        ({"tensorflow", "torch"}, None, "tensorflow"),
        ({"torch"}, None, "torch"),
        ({"tensorflow", "torch"}, "torch", "torch"),
        (set(), None, "tensorflow"),
    ],
)
def test_a_training_in_this_process_uses_the_backend_that_is_installed(monkeypatch, installed, asked, backend):
    monkeypatch.setattr(keras_settings.importlib.util, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if asked:
        monkeypatch.setenv("KERAS_BACKEND", asked)
    assert local_backend() == backend
