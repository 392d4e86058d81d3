"""The text of ``cxrflow COMMAND --help``, which tyro sets from a configuration's fields and their docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from typing import Annotated, Any, get_type_hints

from cxrflow.base.config import Options
from cxrflow.base.config.option_checks import groups_of
from cxrflow.pipeline.commands import Command
from cxrflow.pipeline.flag_parser import metavar


def print_help(name: str, command: Command) -> None:
    """Print the flags of a command, by group."""
    import tyro

    groups = groups_of(command.config)
    form = dataclasses.make_dataclass("Form", [(_title(group, command.config), _form_of(group)) for group in groups])
    on_a_cluster = command.on_a_cluster or f"spark-submit jobs/{name}.py with the same flags."
    try:
        tyro.cli(
            form,
            prog=f"cxrflow {name}",
            description=f"{command.summary} {command.details}\n\nFor example: cxrflow {name} {command.example}\n\n"
            f"On a cluster: {on_a_cluster}",
            args=["--help"],
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit:  # tyro ends the process after the text
        return


def _title(group: type[Options], config_type: type[Options]) -> str:
    """The name of a group in --help: ``model`` for ModelOptions."""
    return "job" if group is config_type else group.__name__.removesuffix("Options").lower()


def _form_of(group: type[Options]) -> type:
    """A dataclass for tyro with the fields of a group. It has the text for --help, but not the group's checks."""
    import tyro

    hints, texts = get_type_hints(group), field_docs(group)
    fields: list[Any] = []
    for field in dataclasses.fields(group):
        if field.name not in texts:  # another group's
            continue
        required, default = field.default is dataclasses.MISSING, field.default
        suffix = "(required)" if required else "" if default is None else f"(default: {_shown(default)})"
        argument = tyro.conf.arg(help=texts[field.name], help_behavior_hint=suffix, metavar=metavar(hints[field.name]))
        hint: Any = hints[field.name]
        annotation = Annotated[hint, argument]
        fields.append(
            (field.name, annotation) if required else (field.name, annotation, dataclasses.field(default=default))
        )
    return dataclasses.make_dataclass(group.__name__, fields, kw_only=True, namespace={"__doc__": ""})


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def field_docs(group: type) -> dict[str, str]:
    """The docstrings under a dataclass's own fields, by field name, each as one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
