"""The evaluations of a run. Each is a folder of its own and is never changed: ``RUN/evaluations/TABLE-SPLIT-NUMBER``.

It holds ``scores.parquet`` and ``metrics.json``. The latter is written last and commits both: a folder without it is no
evaluation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone

from cxrflow.base import lease, storage
from cxrflow.base.errors import UserError
from cxrflow.base.manifest import RunDirectory, write_json

_NAME = re.compile(r"(.+)-(\d+)")


@dataclass(frozen=True)
class Evaluation:
    """The URLs of an evaluation's files."""

    run: str
    name: str

    @property
    def url(self) -> str:
        """Its folder."""
        return storage.join(RunDirectory(self.run).evaluations, self.name)

    @property
    def metrics(self) -> str:
        """The figures."""
        return storage.join(self.url, "metrics.json")

    @property
    def scores(self) -> str:
        """The scores of each image."""
        return storage.join(self.url, "scores.parquet")


def write_evaluation(run: str, result: dict, scores: bytes) -> dict:
    """Write a new evaluation; returns the content of its metrics.json.

    Args:
        run: The run directory.
        result: The figures, with the ``table`` (URL) and ``split`` that name the evaluation.
        scores: A Parquet file.
    """
    _remove_leftovers(run)
    table = re.sub(r"[^\w.-]", "_", result["table"].rsplit("/", 1)[1])
    label = f"{table}-{result['split']}"
    found = [match for name in _finished(run) if (match := _NAME.fullmatch(name)) and match[1] == label]
    number = max((int(match[2]) for match in found), default=0)
    while True:
        number += 1
        evaluation = Evaluation(run, f"{label}-{number}")
        try:
            with lease.hold(evaluation.url, "--run") as held:
                if storage.exists(evaluation.metrics):  # another job has just finished it
                    continue
                storage.write_bytes(evaluation.scores, scores)
                finished = datetime.now(timezone.utc).isoformat(timespec="microseconds")
                result = {**result, "evaluation": evaluation.name, "finished": finished}
                held.check()
                write_json(evaluation.metrics, result)
                return result
        except lease.HeldError:  # another job writes to it
            continue


def find_evaluation(run: str, name: str | None = None) -> tuple[Evaluation, dict] | None:
    """The named evaluation or the newest one, and the content of its metrics.json; None if the run has none.

    Raises UserError if there is none of that name.
    """
    names = _finished(run)
    if name is not None and name not in names:
        raise UserError(
            f"--evaluation: expected one of {', '.join(names) or 'no evaluation, as the run has none'}; got {name!r}"
        )
    reader, chosen = RunDirectory(run), [Evaluation(run, each) for each in names if name in (None, each)]
    found = [(evaluation, reader.read(evaluation.metrics, "evaluate")) for evaluation in chosen]
    return max(found, key=lambda pair: pair[1].get("finished", ""), default=None)


def _finished(run: str) -> list[str]:
    names = storage.entries(RunDirectory(run).evaluations)
    return [name for name in names if storage.exists(Evaluation(run, name).metrics)]


def _remove_leftovers(run: str) -> None:
    """Remove what killed jobs left: unfinished evaluations, and leases of finished ones."""
    finished = set(_finished(run))
    for name in storage.entries(RunDirectory(run).evaluations):
        evaluation = Evaluation(run, name)
        if name in finished and not storage.exists(storage.join(evaluation.url, lease.NAME)):
            continue
        try:
            with lease.hold(evaluation.url, "--run"):  # removes the lease at the end
                storage.remove_temporary_files(evaluation.url)
                if not storage.exists(evaluation.metrics):
                    storage.remove(evaluation.scores)
        except lease.HeldError:  # a running job writes to it
            continue
        storage.remove_if_empty(evaluation.url)
