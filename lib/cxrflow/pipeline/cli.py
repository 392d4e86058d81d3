"""The command ``cxrflow``: flags from a configuration, errors in one sentence, one JSON line at the end."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import logging
import os
import signal
import sys
import textwrap
import traceback
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cxrflow import __version__
from cxrflow.base import console
from cxrflow.base.config import Options
from cxrflow.base.config.option_checks import groups_of
from cxrflow.base.errors import JobError, Stopped, UserError
from cxrflow.pipeline.commands import COMMANDS


def main() -> None:
    """Run ``cxrflow NAME FLAGS``; see ``run_job`` for the output and the exit status."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        run_job(name, flags)
    elif name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(f"cxrflow {__version__}")
    else:
        print(
            f"error: cxrflow: expected one of {', '.join(COMMANDS)}; got {name!r}; see cxrflow --help", file=sys.stderr
        )
        sys.exit(UserError.exit_status)


def overview() -> str:
    """The commands with one line each."""
    lines = [f"  {name:<9} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cxrflow COMMAND FLAGS",
            "",
            "Train and apply chest X-ray classifiers on a Spark cluster. Research software, not a medical device.",
            "",
            *lines,
            "",
            "cxrflow COMMAND --help shows the flags of a command. cxrflow --version shows the version.",
        ]
    )


def run_job(name: str, arguments: Sequence[str] | None = None) -> None:
    """Parse the flags (``sys.argv`` if None), run the command of this name and end the process.

    Standard output ends with the job's result as one line of JSON. Everything else goes to standard error; spark-submit
    copies that to standard output, ahead of the JSON line. Exit status: 0 on success, 2 for bad input (one sentence, no
    stack trace), 130 after Ctrl-C, 143 after SIGTERM, and otherwise 1 with Python's stack trace but not Java's.
    """
    console.erase_bar_before_lines()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("cxrflow").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow's warnings and errors, not its notices
    try:
        config = parse(name, sys.argv[1:] if arguments is None else arguments)
        _take_credentials()
        result = COMMANDS[name].run(config)
    except UserError as error:
        print(f"error: {error}{_locale_hint()}", file=sys.stderr, flush=True)
        if error.result is not None:
            _print_result(error.result)
        sys.exit(error.exit_status)
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if type(error).__name__ == "NoCredentialsError":  # botocore's, without importing botocore
            print(
                "error: expected credentials for S3, found none in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE "
                "and the like) nor, under spark-submit, in Spark's configuration (fs.s3a.access.key)",
                file=sys.stderr,
            )
            sys.exit(UserError.exit_status)
        if sentence := _explained(error):
            print(f"error: {sentence}", file=sys.stderr, flush=True)
            sys.exit(UserError.exit_status)
        # Spark puts Java's stack into the message; the lines that help are Python's.
        lines = traceback.format_exc().splitlines()
        print("\n".join(line for line in lines if not line.startswith(("\tat ", "\t..."))), file=sys.stderr)
        sys.exit(1)
    _print_result(result)


def _locale_hint() -> str:
    """What to add to an error if spark-submit's Java has replaced characters of the arguments by question marks."""
    locale = next((os.environ[name] for name in ("LC_ALL", "LANG") if os.environ.get(name)), "C")
    if "PYSPARK_GATEWAY_PORT" not in os.environ or locale not in ("C", "POSIX") or "??" not in " ".join(sys.argv):
        return ""
    return f" (under the locale {locale}, spark-submit replaces characters by ?; set LC_ALL=C.UTF-8)"


def _explained(error: Exception) -> str | None:
    """The sentence for a failure whose cause is known; None for any other."""
    if isinstance(error, UnicodeError) or "unmappable characters" in str(error):
        name = getattr(error, "object", None)
        shown = f"{name!a}, a name that it cannot show" if isinstance(name, str) else "one that cannot show a name"
        return f"LC_ALL: expected a UTF-8 locale, got {shown} ({str(error).splitlines()[0]}); set LC_ALL=C.UTF-8"
    if not hasattr(error, "java_exception") and "java" not in str(error):
        return None
    from cxrflow.spark.start_errors import explain_task_failure

    return explain_task_failure(str(error))


def _print_result(result: dict[str, Any]) -> None:
    from cxrflow.pipeline.headline import fit_text

    sys.stderr.flush()
    if console.in_terminal():
        print(console.ERASE_LINE, end="", file=sys.stderr, flush=True)
    print(json.dumps(fit_text(result), allow_nan=False), flush=True)


def parse(name: str, arguments: Sequence[str]) -> Options:
    """The configuration that the flags of a command describe.

    Raises UserError for a value that the configuration rejects. tyro ends the process after --help, for an unknown or
    missing flag, and for text in place of a number.
    """
    import tyro

    command = COMMANDS[name]
    groups = groups_of(command.config)
    form = dataclasses.make_dataclass("Form", [(_title(group, command.config), _form_of(group)) for group in groups])
    parsed: Any = tyro.cli(
        form,
        prog=f"cxrflow {name}",
        description=f"{command.summary} {command.details}\n\nFor example: cxrflow {name} {command.example}\n\n"
        f"On a cluster: spark-submit jobs/{name}.py with the same flags.",
        args=list(arguments),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return command.config(**{name: value for group in vars(parsed).values() for name, value in vars(group).items()})


def _title(group: type[Options], config_type: type[Options]) -> str:
    """The name of a group in --help: ``model`` for ModelOptions."""
    return "job" if group is config_type else group.__name__.removesuffix("Options").lower()


def _form_of(group: type[Options]) -> type:
    """A dataclass for tyro with the fields of a group. It has the text for --help, but not the group's checks.

    Fields with a closed set of choices are plain text here, so that the configuration's own error lists the choices.
    """
    import tyro

    hints, texts = get_type_hints(group), field_docs(group)
    fields: list[Any] = []
    for field in dataclasses.fields(group):
        if field.name not in texts:  # another group's
            continue
        required, default = field.default is dataclasses.MISSING, field.default
        suffix = "(required)" if required else "" if default is None else f"(default: {_shown(default)})"
        argument = tyro.conf.arg(help=texts[field.name], help_behavior_hint=suffix, metavar=metavar(hints[field.name]))
        hint: Any = str if _is_text_choice(hints[field.name]) else hints[field.name]
        annotation = Annotated[hint, argument]
        fields.append(
            (field.name, annotation) if required else (field.name, annotation, dataclasses.field(default=default))
        )
    return dataclasses.make_dataclass(group.__name__, fields, kw_only=True, namespace={"__doc__": ""})


def _is_text_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal and all(isinstance(choice, str) for choice in get_args(hint))


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def metavar(hint: Any) -> str | None:
    """What --help shows for a flag's value: its choices, its type in capitals, or None for a flag without a value."""
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) in (Union, types.UnionType):  # of a type and None
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    return {str: "TEXT", int: "INT", float: "NUM", bool: None}[hint]


def field_docs(group: type) -> dict[str, str]:
    """The docstrings under a dataclass's own fields, by field name, each as one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _take_credentials() -> None:
    """Use the credentials that spark-submit was given. A job reads its table before it opens a session."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # set by spark-submit
        from cxrflow.spark.credentials import take_from_submit

        take_from_submit()
