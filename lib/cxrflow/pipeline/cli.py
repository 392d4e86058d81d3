"""What every job's command line shares: flags from a configuration, errors in one sentence, one JSON line at the end."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable

import tyro

from cxrflow.base.errors import JobError, Stopped, UserError


def run_job(config_type: type, job: Callable[..., dict], description: str) -> None:
    """Parse the flags into ``config_type``, call ``job(config)`` and end the process.

    Standard output ends with the job's result as one line of JSON; all else goes to standard error (which
    spark-submit mixes into standard output, ahead of that line). Exit status is 0 on success, 2 for bad input (one
    sentence, no stack trace), 130 after Ctrl-C and 143 after SIGTERM, and 1 for everything else, with Python's stack trace
    but not Java's where no sentence explains it.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("cxrflow").setLevel(logging.INFO)
    config = parse(config_type, description, sys.argv[1:])
    try:
        _take_credentials()
        result = job(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if error.result is not None:
            print(json.dumps(error.result, allow_nan=False), flush=True)
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
        if type(error).__name__ == "NoCredentialsError":  # botocore's, which is not imported for its sake
            print(
                "error: expected credentials for S3, found none in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE and the "
                "like) nor, under spark-submit, in Spark's configuration (fs.s3a.access.key)",
                file=sys.stderr,
            )
            sys.exit(UserError.exit_status)
        # Spark puts Java's stack into the message; the lines that help are Python's.
        lines = traceback.format_exc().splitlines()
        print("\n".join(line for line in lines if not line.startswith(("\tat ", "\t..."))), file=sys.stderr)
        sys.exit(1)
    sys.stderr.flush()
    print(json.dumps(result, allow_nan=False), flush=True)


def parse(config_type: type, description: str, arguments: list[str]):
    """A ``config_type`` of the flags. Ends the process as tyro does, after --help and for an unknown flag."""
    return tyro.cli(config_type, description=description, args=arguments)


def _take_credentials() -> None:
    """Those that spark-submit was given are there from the start: a job looks at its table before it opens a session."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit's
        from cxrflow.spark.credentials import take_from_submit

        take_from_submit()
