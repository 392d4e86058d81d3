"""What the option classes share: the base class, and checks that raise ``--flag: expected X, got Y; do Z``."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cxrflow.base.errors import UserError

# user:password@ in front of a host or bucket. A password may hold slashes; a host, but no bucket, may have a port.
_SECRET = re.compile(r"(?:(?:s3a?|gs|gcs)://[^/@]*:|[a-z0-9+.-]+://(?![^/@]*:\d+(?:/|$))[^/@]*:).*@", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every group of options. A subclass that checks more calls ``super().__post_init__()`` first."""

    def __post_init__(self) -> None:
        """Raise UserError for an unknown choice, a number that is not finite, or a URL with a password."""
        choices = {
            name: get_args(hint) for name, hint in get_type_hints(type(self)).items() if get_origin(hint) is Literal
        }
        for name, value in vars(self).items():
            if name in choices:
                require(
                    value in choices[name],
                    f"{flag(name)}: expected one of {', '.join(map(str, choices[name]))}; got {value!r}",
                )
            if isinstance(value, float):
                require(math.isfinite(value), f"{flag(name)}: expected a finite number, got {value}")
            # The message does not repeat the value: configurations are saved and shown.
            require(
                not (isinstance(value, str) and _SECRET.match(value)),
                f"{flag(name)}: expected a URL without credentials, got one with a password or key before the @; "
                "pass credentials in the environment or in Spark's configuration",
            )

    def require_at_least(self, least: float, *names: str) -> None:
        """Raise UserError if one of these options is a number below ``least``."""
        for name in names:
            value = getattr(self, name)
            require(
                value is None or value >= least, f"{flag(name)}: expected a number of at least {least:g}, got {value}"
            )

    def require_positive(self, *names: str) -> None:
        """Raise UserError if one of these options is not above 0."""
        for name in names:
            value = getattr(self, name)
            require(value is None or value > 0, f"{flag(name)}: expected a number above 0, got {value}")


def groups_of(config_type: type[Options]) -> list[type[Options]]:
    """The groups that a job's options inherit from, and the class itself if it has options of its own."""
    groups = [base for base in config_type.__bases__ if base is not Options]
    return [*groups, config_type] if inspect.get_annotations(config_type) else groups


def flag(name: str) -> str:
    """The command line's name of an option: ``--batch-size`` for ``batch_size``."""
    return "--" + name.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raise UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_groups(name: str, expected: str, pattern: str) -> None:
    """Raise UserError unless the pattern is a regular expression with at least one (group)."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"{flag(name)}: expected {expected}, got {pattern!r} ({error})") from None
    require(groups > 0, f"{flag(name)}: expected {expected} with a (group), got {pattern!r}")


def to_dict(config: Options) -> dict[str, Any]:
    """The options as plain data, for JSON."""
    return dataclasses.asdict(config)
