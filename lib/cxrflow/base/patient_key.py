"""The secret key that turns the patients of DICOM headers into ids, and the file that keeps it.

A patient's id in a table is a keyed hash, so nobody without the key can test whether a person is in the table. Tables
with the same key give the same patient the same id. ``manifest.json`` has a fingerprint of the key, never the key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass

from cxrflow.base import storage
from cxrflow.base.errors import UserError

FILE = "_patient_key"
"""The file of a table that has a key of its own, in the table's folder."""
ENVIRONMENT = "CXRFLOW_PATIENT_KEY"
MIN_BYTES = 16
DIGITS = 20
"""Hexadecimal digits of a patient's id. Among a million patients, two share an id with a probability of 4e-13."""

PLACEHOLDER = re.compile(
    r"anon(ym(ous|ized|ised|us)?)?|unknown|none|null|n/?a|no ?id|removed|de-?identified|[-_.?x* ]*"
)
"""Texts that stand for no id, in lower case. As ids, they would put different patients together."""


@dataclass(frozen=True, repr=False)
class PatientKey:
    """A key. Its text form does not show it."""

    secret: bytes
    is_own: bool
    """Whether it belongs to one table, which keeps it in FILE."""

    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the key and do not reveal it."""
        return hmac.new(self.secret, b"cxrflow patient key", hashlib.sha256).hexdigest()[:16]

    def patient_id(self, patient: str, issuer: str) -> str | None:
        """The table's id of a patient: DIGITS hexadecimal digits of HMAC-SHA-256; None if ``patient`` is no usable id.

        ``patient`` and ``issuer`` are Patient ID and Issuer of Patient ID.
        """
        patient, issuer = patient.strip(), issuer.strip()
        if PLACEHOLDER.fullmatch(patient.lower()):
            return None
        content = f"{len(issuer)}:{issuer}{patient}".encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, content, hashlib.sha256).hexdigest()[:DIGITS]


def find_key(flag: str | None, table: str, fingerprint: str = "") -> PatientKey:
    """The key from the file ``--patient-key``, else from the environment, else the table's own, else a new one.

    A new key is not saved, see ``save_key``. Raises UserError if a key cannot be read or is too short, and if its
    fingerprint is not the given one, that of the table to extend.
    """
    given = given_key(flag)
    own = storage.join(table, FILE)
    key = given or (_from_file(own, "--table", is_own=True) if storage.exists(own) else None)
    if fingerprint and (key is None or key.fingerprint() != fingerprint):
        got = "no key" if key is None else "another one"
        raise UserError(
            f"--patient-key: expected the key with which {table!r} was made, got {got}; "
            + _advice(own, fingerprint)
            + ", or build the table again with --if-exists overwrite"
        )
    return key or PatientKey(secrets.token_hex(32).encode(), is_own=True)


def given_key(flag: str | None) -> PatientKey | None:
    """The key that the user gives, if any. Raises UserError if it cannot be read or is too short."""
    if flag is not None:
        return _from_file(flag, "--patient-key", is_own=False)
    value = os.environ.get(ENVIRONMENT, "").strip()
    return _checked(value.encode("utf-8", "surrogateescape"), ENVIRONMENT, is_own=False) if value else None


def save_key(table: str, key: PatientKey) -> None:
    """Write the table's own key, readable by this user only; does nothing for another key and if it is there."""
    url = storage.join(table, FILE)
    if not key.is_own or storage.exists(url):
        return
    storage.write_bytes(url, key.secret + b"\n", private=True)


def remove_unused_key(table: str, fingerprint: str) -> None:
    """Remove the table's own key if the table was made with another one. ``fingerprint`` is the manifest's."""
    url = storage.join(table, FILE)
    with contextlib.suppress(UserError):  # another user's file stays
        if fingerprint and storage.exists(url) and _from_file(url, "--table", True).fingerprint() != fingerprint:
            storage.remove(url)


def _from_file(url: str, flag: str, is_own: bool) -> PatientKey:
    try:
        content = storage.read_bytes(url)
    except OSError as error:  # the message does not repeat the flag's value, which may be the key itself
        raise UserError(
            f"{flag}: expected a readable file with the key of the patients' ids, got {type(error).__name__}; "
            "name a file that this user can read"
        ) from None
    return _checked(content.strip(), flag, is_own)


def _checked(secret: bytes, source: str, is_own: bool) -> PatientKey:
    if len(secret) < MIN_BYTES:
        raise UserError(
            f"{source}: expected a key of at least {MIN_BYTES} bytes, got {len(secret)}; "
            "make one with: openssl rand -hex 32"
        )
    return PatientKey(secret, is_own)


def _advice(own: str, fingerprint: str) -> str:
    """What to do about a wrong key."""
    if storage.exists(own) and _from_file(own, "--table", True).fingerprint() == fingerprint:
        return f"leave out --patient-key and unset {ENVIRONMENT}, because the table has its own key"
    return f"give the same key with --patient-key or {ENVIRONMENT}"
