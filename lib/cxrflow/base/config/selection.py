"""``--select``: which images are ingested, by conditions on their columns. Standard library only."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from cxrflow.base.errors import UserError
from cxrflow.base.image_columns import IMAGE_COLUMNS

NONE = "none"
"""Stands for a missing value."""
COMPARISONS = ("<", "<=", ">", ">=")
FLAGS = {"yes": True, "true": True, "no": False, "false": False}
EXAMPLE = "modality in CR,DX and view_position in PA,AP"

_TOKEN = re.compile(r"""\s*(?:(?P<quoted>'[^']*'|"[^"]*")|(?P<sign><=|>=|!=|[=<>,])|(?P<word>[^\s,'"<>=!]+))""")

Value = str | float | bool | None


@dataclass(frozen=True)
class Condition:
    """One condition. All of a selection must hold."""

    column: str
    operator: str
    """``in``, ``not in`` or one of COMPARISONS."""
    values: tuple[Value, ...]
    """Text in lower case, numbers, True or False; None stands for a missing value. A comparison has one value."""
    text: str
    """The condition as it was written."""


@dataclass(frozen=True)
class _Token:
    text: str
    start: int
    kind: str


def parse_selection(text: str) -> list[Condition]:
    """The conditions of ``column in A,B and column not in A,B and column = A and column >= 18``.

    Values with blanks, commas or signs are quoted. Raises UserError, with the position, for anything else.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str):
        self._text = text
        self._tokens = list(self._split())
        self._next = 0

    def parse(self) -> list[Condition]:
        conditions = [self._condition()]
        while (token := self._peek()) is not None:
            if token.text.lower() != "and" or token.kind != "word":
                raise self._error("a comma, and, or the end (values with blanks need quotes)", token)
            self._next += 1
            conditions.append(self._condition())
        return conditions

    def _split(self):
        position, end = 0, len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None:
                start = position + len(self._text[position:]) - len(self._text[position:].lstrip())
                raise self._error("a value or a closing quote", _Token(self._text[start], start, "sign"))
            assert match.lastgroup is not None
            yield _Token(match[match.lastgroup], match.start(match.lastgroup), match.lastgroup)
            position = match.end()

    def _condition(self) -> Condition:
        first = self._take("a column")
        column = first.text.lower()
        if first.kind != "word" or column not in IMAGE_COLUMNS:
            raise self._error(f"one of the columns {', '.join(IMAGE_COLUMNS)}", first)
        operator = self._operator(column)
        values = [self._value(column, operator)]
        while operator in ("in", "not in") and (token := self._peek()) is not None and token.text == ",":
            self._next += 1
            values.append(self._value(column, operator))
        last = self._tokens[self._next - 1]
        named = {"=": "in", "!=": "not in"}.get(operator, operator)
        return Condition(column, named, tuple(values), self._text[first.start : last.start + len(last.text)])

    def _operator(self, column: str) -> str:
        expected = "in, not in, = or !=" + (" or a comparison" if IMAGE_COLUMNS[column] in ("number", "date") else "")
        token = self._take(expected)
        word = token.text.lower()
        if word == "not":
            following = self._take("in")
            if following.text.lower() != "in":
                raise self._error("in", following)
            return "not in"
        if word in ("in", "=", "!="):
            return word
        if word in COMPARISONS and IMAGE_COLUMNS[column] in ("number", "date"):
            return word
        raise self._error(expected, token)

    def _value(self, column: str, operator: str) -> Value:
        token = self._take("a value")
        if token.kind == "sign":
            raise self._error("a value", token)
        text = token.text[1:-1].strip() if token.kind == "quoted" else token.text
        if token.kind == "word" and text.lower() == NONE:
            if operator in COMPARISONS:
                raise self._error("a number or a date", token)
            return None
        kind = IMAGE_COLUMNS[column]
        try:
            if kind == "number":
                return float(text)
            if kind == "date":
                return datetime.date.fromisoformat(text).isoformat()
            return FLAGS[text.lower()] if kind == "flag" else text.lower()
        except (ValueError, KeyError):
            kinds = {"number": "a number", "date": "a date such as 2024-02-29", "flag": "yes, no"}
            raise self._error(f"{kinds[kind]} or {NONE} for {column}", token) from None

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, expected: str) -> _Token:
        token = self._peek()
        if token is None:
            raise self._error(expected, None)
        self._next += 1
        return token

    def _error(self, expected: str, token: _Token | None) -> UserError:
        got = "the end" if token is None else f"{token.text!r} at character {token.start + 1}"
        return UserError(f"--select: expected {expected}, got {got} of {self._text!r}; write it like {EXAMPLE!r}")
