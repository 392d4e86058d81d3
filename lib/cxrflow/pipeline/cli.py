"""The command ``cxrflow``: errors in one sentence, one JSON line at the end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from cxrflow import __version__
from cxrflow.base import console
from cxrflow.base.errors import JobError, Stopped, UserError
from cxrflow.base.extras import missing_package
from cxrflow.base.nearest_name import nearest_name
from cxrflow.pipeline.commands import COMMANDS
from cxrflow.pipeline.flag_help import print_help
from cxrflow.pipeline.flag_parser import parse_flags


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
        close = nearest_name(name, list(COMMANDS))
        advice = f"use cxrflow {close}, or see cxrflow --help" if close else "see cxrflow --help"
        print(f"error: cxrflow: expected one of {', '.join(COMMANDS)}; got {name!r}; {advice}", file=sys.stderr)
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
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print_help(name, COMMANDS[name])
        return
    console.erase_bar_before_lines()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("cxrflow").setLevel(logging.INFO)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow's warnings and errors, not its notices
    try:
        config = parse_flags(f"cxrflow {name}", COMMANDS[name].config, words)
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
        if sentence := _explained(error, f"cxrflow {name}"):
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


def _explained(error: Exception, command: str = "cxrflow") -> str | None:
    """The sentence for a failure whose cause is known; None for any other."""
    if isinstance(error, ModuleNotFoundError) and (missing := missing_package(command, error.name)):
        return str(missing)
    if type(error).__name__ == "NoCredentialsError":  # botocore's, without importing botocore
        return (
            "S3: expected credentials, found none; set AWS_ACCESS_KEY_ID, AWS_PROFILE or the like in the environment, "
            "or, under spark-submit, fs.s3a.access.key in Spark's configuration"
        )
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


def _take_credentials() -> None:
    """Use the credentials that spark-submit was given. A job reads its table before it opens a session."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # set by spark-submit
        from cxrflow.spark.credentials import take_from_submit

        take_from_submit()
