"""Shard readers by name. Each reads whole shards in a given order, ahead of their use, within a byte budget.

An implementation is one file, ``reader_interface`` says what it does, and its loader is registered in ``READERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import pyarrow as pa

from cxrflow.base.errors import UserError
from cxrflow.training.reader_interface import ReadRequest, ShardReader

OpenReader = Callable[[ReadRequest], ShardReader]


def _load_petastorm() -> OpenReader:
    from cxrflow.training.petastorm_reader import PetastormReader

    return PetastormReader


def _load_arrow() -> OpenReader:
    from cxrflow.training.arrow_reader import ArrowReader

    return ArrowReader


READERS: dict[str, Callable[[], OpenReader]] = {"petastorm": _load_petastorm, "arrow": _load_arrow}
"""Each reader's loader by name. A loader imports its library, so that only the chosen one is loaded."""


def default_reader() -> str:
    """``petastorm`` where it is installed with a pyarrow that it runs with, otherwise ``arrow``.

    Nobody has to choose: all readers return the same tables in the same order, so the workers of one training may have
    different ones, and a run may resume with another one.
    """
    # Petastorm 0.13 uses a dataset API that pyarrow 15 removed.
    return "petastorm" if find_spec("petastorm") and int(pa.__version__.split(".")[0]) < 15 else "arrow"


def find_reader(name: str | None = None) -> OpenReader:
    """The opener of the reader with this name, by default of ``default_reader``. Raises UserError if there is none."""
    name = name or default_reader()
    if name not in READERS:
        raise UserError(f"reader: expected one of {', '.join(READERS)}, got {name!r}")
    return READERS[name]()
