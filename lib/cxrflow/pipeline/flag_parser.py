"""From the flags of a command to its configuration. Every error is ``--flag: expected X, got Y; do Z``."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cxrflow.base.config import Options
from cxrflow.base.config.option_checks import flag
from cxrflow.base.errors import UserError
from cxrflow.base.nearest_name import nearest_name

NUMBERS = {int: "a whole number", float: "a number"}


def parse_flags(command: str, config_type: type[Options], arguments: Sequence[str]) -> Options:
    """The configuration that the flags describe: ``--name VALUE`` or ``--name=VALUE``, ``--name`` and ``--no-name``.

    The last of several values for one flag counts. Underscores may replace the hyphens of a flag.

    Args:
        command: Such as ``cxrflow train``, for the errors.
        config_type: The class of the configuration, with one field per flag.
        arguments: The words of the command line after the command.

    Raises:
        UserError: For an unknown flag, a value that is missing or of another type, a required flag that is missing, or
            a value that the configuration rejects.
    """
    hints = get_type_hints(config_type)
    switches = {flag(name): (name, True) for name, hint in hints.items() if hint is bool}
    switches |= {flag(f"no-{name}"): (name, False) for name, hint in hints.items() if hint is bool}
    options = {flag(name): name for name, hint in hints.items() if hint is not bool}
    values: dict[str, Any] = {}
    words = iter(arguments)
    for word in words:
        written, equals, text = word.partition("=")
        spelled = "--" + written[2:].replace("_", "-") if written.startswith("--") else written
        if spelled in switches:
            if equals:
                raise UserError(f"{spelled}: expected no value, got {text!r}; use {_both(switches[spelled][0])}")
            name, value = switches[spelled]
            values[name] = value
        elif spelled in options:
            name = options[spelled]
            values[name] = convert(spelled, hints[name], text if equals else _next_value(spelled, hints[name], words))
        else:
            raise _unknown(command, written, [*options, *switches])
    _require_all(command, config_type, values)
    return config_type(**values)


def metavar(hint: Any) -> str | None:
    """What stands for a flag's value: its choices, its type in capitals, or None for a flag without a value."""
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    return {str: "TEXT", int: "INT", float: "NUM", bool: None}[_inner(hint)]


def convert(spelled: str, hint: Any, text: str) -> Any:
    """The value of a flag. An unknown choice stays text, because the configuration's own error lists the choices.

    Raises UserError for text in place of a number.
    """
    if get_origin(hint) is Literal:
        return {str(choice): choice for choice in get_args(hint)}.get(text, text)
    kind = _inner(hint)
    try:
        return kind(text)
    except ValueError:
        raise UserError(f"{spelled}: expected {NUMBERS[kind]}, got {text!r}") from None


def _inner(hint: Any) -> type:
    """``int`` of ``int | None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(choice for choice in get_args(hint) if choice is not type(None))
    return hint


def _both(name: str) -> str:
    return f"{flag(name)} or {flag(f'no-{name}')}"


def _next_value(spelled: str, hint: Any, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None or value.startswith("--"):
        got = "none" if value is None else f"the flag {value}"
        raise UserError(f"{spelled}: expected a value, got {got}; write {spelled} {metavar(hint)}")
    return value


def _unknown(command: str, written: str, known: Sequence[str]) -> UserError:
    if not written.startswith("-"):
        return UserError(
            f"{written}: expected a flag of {command}, got a word that belongs to no flag; put quotation marks around "
            f"a value with spaces, or see {command} --help"
        )
    close = nearest_name(written, known)
    return UserError(
        f"{written}: expected a flag of {command}, got an unknown one; "
        + (f"use {close}, or see {command} --help" if close else f"see {command} --help")
    )


def _require_all(command: str, config_type: type[Options], values: dict[str, Any]) -> None:
    hints = get_type_hints(config_type)
    missing = [
        field.name
        for field in dataclasses.fields(config_type)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        add = " ".join(f"{flag(name)} {metavar(hints[name])}" for name in missing)
        raise UserError(
            f"{', '.join(map(flag, missing))}: expected a value, got none; add {add}, or see {command} --help"
        )
