"""Every error of the command line: the flag, what was expected, what came, what to do."""

import pytest

from cxrflow.base.config import EvaluateConfig, IngestConfig, TrainConfig
from cxrflow.base.errors import UserError
from cxrflow.base.nearest_name import nearest_name
from cxrflow.pipeline.flag_parser import parse_flags

REQUIRED = ["--table", "t", "--run", "r"]


def parse(*arguments: str) -> TrainConfig:
    return parse_flags("cxrflow train", TrainConfig, [*REQUIRED, *arguments])


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--batch-size", "8"], {"batch_size": 8}),
        (["--batch-size=8"], {"batch_size": 8}),
        (["--batch_size", "8"], {"batch_size": 8}),
        (["--batch-size", "8", "--batch-size", "16"], {"batch_size": 16}),
        (["--learning-rate", "1e-3"], {"learning_rate": 1e-3}),
        (["--no-tensorboard", "--preflight-only"], {"tensorboard": False, "preflight_only": True}),
        (["--tta", "1"], {"tta": 1}),
        (["--generation", "3", "--cache", "/d"], {"generation": 3, "cache": "/d"}),
        (["--mlflow=--x"], {"mlflow": "--x"}),
    ],
)
def test_flags_become_fields(arguments, fields):
    assert parse(*arguments) == TrainConfig(table="t", run="r", **fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tabel", "t"],
            "--tabel: expected a flag of cxrflow train, got an unknown one; use --table, or see cxrflow train --help",
        ),
        (["--views", "5"], "--views: expected a flag of cxrflow train, got an unknown one; see cxrflow train --help"),
        (["--no-tensorbord"], "got an unknown one; use --no-tensorboard, or see"),
        (["-t", "x"], "-t: expected a flag of cxrflow train, got an unknown one; "),
        (["big", "run"], "big: expected a flag of cxrflow train, got a word that belongs to no flag; put quotation"),
        (["--epochs", "many"], "--epochs: expected a whole number, got 'many'"),
        (["--epochs", "1.5"], "--epochs: expected a whole number, got '1.5'"),
        (["--learning-rate", "fast"], "--learning-rate: expected a number, got 'fast'"),
        (["--generation", "last"], "--generation: expected a whole number, got 'last'"),
        (["--tta", "3"], "--tta: expected one of 1, 5; got '3'"),
        (["--launcher", "mpi"], "--launcher: expected one of local, horovod, horovodrunner, torch; got 'mpi'"),
        (["--epochs"], "--epochs: expected a value, got none; write --epochs INT"),
        (["--cache", "--tta", "1"], "--cache: expected a value, got the flag --tta; write --cache TEXT"),
        (["--tensorboard=no"], "--tensorboard: expected no value, got 'no'; use --tensorboard or --no-tensorboard"),
    ],
)
def test_errors_name_the_flag_what_was_expected_and_what_came(arguments, message):
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_missing_flags_are_named_at_once():
    with pytest.raises(UserError) as error:
        parse_flags("cxrflow evaluate", EvaluateConfig, ["--split", "val"])
    assert str(error.value) == (
        "--run, --table: expected a value, got none; add --run TEXT --table TEXT, or see cxrflow evaluate --help"
    )


def test_a_class_without_flags_of_another_command_rejects_them():
    with pytest.raises(UserError, match="--epochs: expected a flag of cxrflow ingest"):
        parse_flags("cxrflow ingest", IngestConfig, ["--images", "i", "--table", "t", "--epochs", "3"])


def test_the_nearest_name():
    assert nearest_name("evalute", ["ingest", "train", "evaluate"]) == "evaluate"
    assert nearest_name("--tabel", ["--table", "--label-rule"]) == "--table"
    assert nearest_name("xyz", ["ingest", "train"]) is None
