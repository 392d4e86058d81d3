import dataclasses
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import tyro

from cxrflow.base import config
from cxrflow.base.config.option_checks import flag, groups_of
from cxrflow.base.errors import UserError
from cxrflow.launch import LAUNCHERS
from cxrflow.pipeline.commands import COMMANDS
from cxrflow.pipeline.flag_help import field_docs
from cxrflow.pipeline.flag_parser import metavar, parse_flags

PINNED = Path(__file__).with_name("command_line.txt")


def command_line() -> str:
    """Every flag of every command, with its choices or type and its default, by group."""
    lines = []
    for name, command in COMMANDS.items():
        for group in groups_of(command.config):
            lines.append(f"cxrflow {name}: {group.__name__}")
            hints, own = get_type_hints(group), field_docs(group)
            for field in dataclasses.fields(group):
                if field.name in own:
                    default = "required" if field.default is dataclasses.MISSING else repr(field.default)
                    lines.append(f"  {flag(field.name):<22} {metavar(hints[field.name]) or 'flag':<40} {default}")
            lines.append("")
    return "\n".join(lines)


def test_the_command_line_is_pinned():
    """A change of a flag is a change of this file: python tests/test_config.py writes it anew."""
    assert command_line() == PINNED.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_belongs_to_one_group_and_has_a_docstring(name):
    config_type = COMMANDS[name].config
    documented = [field for group in groups_of(config_type) for field in field_docs(group)]
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(config_type))


def test_choices_are_those_of_the_code():
    hints = get_type_hints(config.TrainConfig)
    assert set(get_args(hints["launcher"])) == set(LAUNCHERS)


@pytest.mark.parametrize("arguments", [["--table", "t", "--run", "r", "--batch-size", "8", "--if-exists", "overwrite"]])
def test_flags_and_fields_are_the_same(arguments):
    expected = config.TrainConfig(table="t", run="r", batch_size=8, if_exists="overwrite")
    assert (
        tyro.cli(config.TrainConfig, args=arguments)
        == parse_flags("cxrflow train", config.TrainConfig, arguments)
        == expected
    )


def test_a_wrong_choice_lists_the_choices():
    with pytest.raises(UserError, match="--device: expected one of auto, cpu, gpu; got 'tpu'"):
        parse_flags("cxrflow train", config.TrainConfig, ["--table", "t", "--run", "r", "--device", "tpu"])


def test_split_fractions():
    assert config.split_fractions("0.6,0.2,0.2") == {"train": 0.6, "val": 0.2, "test": 0.2}
    assert config.split_fractions("test") == {"train": 0.0, "val": 0.0, "test": 1.0}


@pytest.mark.parametrize("split", ["0.6,0.2", "0.6,0.3,0.2", "a,b,c", "holdout", "1.2,-0.1,-0.1", ""])
def test_a_split_that_does_not_add_up_is_refused_with_what_came(split):
    with pytest.raises(
        UserError, match="expected three fractions that add up to 1.*" + repr(split).replace(".", r"\.")
    ):
        config.IngestConfig(images="i", table="t", split=split)


@pytest.mark.parametrize("field", ["height", "width", "shard_rows"])
def test_a_size_of_zero_is_refused(field):
    with pytest.raises(UserError, match=f"--{field.replace('_', '-')}: expected a number above 0, got 0"):
        config.IngestConfig(images="i", table="t", **{field: 0})


@pytest.mark.parametrize("rule", ["phantom", "(unclosed"])
def test_a_patient_rule_without_a_group_is_refused(rule):
    with pytest.raises(UserError, match="--patients"):
        config.IngestConfig(images="i", table="t", patients=rule)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"findings": "all"}, "--findings: expected --labels, a file"),
        ({"findings": "A,A", "labels": "l.csv"}, "different names"),
        ({"findings": "A|B", "labels": "l.csv"}, "different names"),
        ({"label_rule": "(a", "labels": None}, "regular expression, got '.a'"),
        ({"label_rule": "a"}, r"with a \(group\)"),
        ({"label_rule": "(a)", "labels": "l.csv"}, "--label-rule: expected no --labels"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        config.IngestConfig(images="i", table="t", **change)


@pytest.mark.parametrize(
    "change",
    [
        {"workers": 0},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"seed": -1},
        {"lr_scaling": "cubic"},
        {"device": "tpu"},
        {"precision": "float8"},
        {"batch_norm": "none"},
        {"warmup_epochs": -1.0},
        {"feed_memory": "1 GB"},
        {"checkpoint_seconds": -1.0},
        {"if_exists": "extend"},
        {"mlflow": " "},
        {"threshold": "best"},
        {"threshold": "sensitivity=0"},
        {"threshold": "sensitivity=95"},
        {"ema_epochs": -1.0},
        {"tta": 3},
        {"seed": 2**31},
        {"weight_decay": -0.1},
        {"checkpoint_seconds": float("inf")},
        {"hang_seconds": float("inf")},
        {"learning_rate": float("nan")},
    ],
)
def test_train_values_out_of_range_are_refused(change):
    with pytest.raises(UserError, match="--" + next(iter(change)).replace("_", "-")):
        config.TrainConfig(table="t", run="r", **change)


@pytest.mark.parametrize("by", ["virus|bacteria", "(unclosed"])
def test_a_subgroup_rule_without_a_group_is_refused(by):
    with pytest.raises(UserError, match="--subgroups: expected a column of the table or a regular expression"):
        config.EvaluateConfig(run="r", table="t", subgroups=by)


def test_prevalence():
    assert config.parse_prevalence("0.1") == 0.1
    assert config.parse_prevalence("a=0.25, b c=0.75") == {"a": 0.25, "b c": 0.75}


@pytest.mark.parametrize("prevalence", ["", "0", "1", "10", "estimate", "a=0.5,a=0.5", "a=0.5,0.5", "a=x"])
def test_a_prevalence_that_is_none_is_refused(prevalence):
    for kind, others in (
        (config.EvaluateConfig, {"table": "t"}),
        (config.PredictConfig, {"images": "i", "predictions": "p"}),
    ):
        with pytest.raises(UserError, match="--prevalence: expected the positive label's share"):
            kind(run="r", prevalence=prevalence, **others)


if __name__ == "__main__":
    PINNED.write_text(command_line())
