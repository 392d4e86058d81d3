"""The key of patients' ids: where it comes from, which one is refused, and what its ids reveal."""

import stat

import pytest

from cxrflow.base.errors import UserError
from cxrflow.base.patient_key import ENVIRONMENT, FILE, PatientKey, find_key, given_key, remove_unused_key, save_key

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def key_file(tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    return str(tmp_path / "key")


def test_a_patient_is_an_id_and_its_issuer():
    key, other = PatientKey(KEY.encode(), False), PatientKey(b"x" * 16, False)
    assert key.patient_id("4711", "A") == key.patient_id(" 4711 ", "A ") != key.patient_id("4711", "B")
    assert key.patient_id("1", "23") != key.patient_id("31", "2")  # an id cannot imitate an issuer
    assert key.patient_id("4711", "") != other.patient_id("4711", "")
    found = key.patient_id("4711", "A")
    assert len(found) == 20 and int(found, 16) and "4711" not in repr(key) and KEY not in repr(key)


@pytest.mark.parametrize(
    "text", ["", "  ", "ANONYMOUS", "Anonymized", "unknown", "N/A", "NONE", "---", "XXXX", "removed"]
)
def test_a_placeholder_is_no_id(text):
    assert PatientKey(KEY.encode(), False).patient_id(text, "A") is None


@pytest.mark.parametrize("text", ["0", "000", "x1", "annona", "none-7"])
def test_other_texts_are_ids(text):
    assert PatientKey(KEY.encode(), False).patient_id(text, "A")


def test_the_flag_then_the_environment_then_the_table_then_a_new_key(tmp_path, key_file, monkeypatch):
    table = str(tmp_path / "table")
    new = find_key(None, table)
    assert new.is_own and len(new.secret) == 64 and new.secret != find_key(None, table).secret
    save_key(table, new)
    assert find_key(None, table) == new
    monkeypatch.setenv(ENVIRONMENT, "y" * 16)
    assert find_key(None, table).secret == b"y" * 16
    given = find_key(key_file, table)
    assert (given.secret, given.is_own) == (KEY.encode(), False)


def test_the_tables_own_key_is_for_its_owner_alone(tmp_path):
    key = find_key(None, str(tmp_path))
    save_key(str(tmp_path), key)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    save_key(str(tmp_path), PatientKey(b"z" * 16, True))
    assert find_key(None, str(tmp_path)) == key  # it never changes


def test_a_given_key_is_not_copied_into_the_table(tmp_path, key_file):
    save_key(str(tmp_path / "table"), find_key(key_file, str(tmp_path / "table")))
    assert not (tmp_path / "table").exists()


def test_another_key_than_the_tables_is_refused_with_advice(tmp_path, key_file):
    table = str(tmp_path / "table")
    own = find_key(None, table)
    save_key(table, own)
    with pytest.raises(UserError, match="got another one; leave out --patient-key and unset CXRFLOW_PATIENT_KEY"):
        find_key(key_file, table, own.fingerprint())
    with pytest.raises(UserError, match="got another one; give the same key with --patient-key"):
        find_key(None, table, PatientKey(KEY.encode(), False).fingerprint())
    with pytest.raises(UserError, match="got no key; give the same key with --patient-key"):
        find_key(None, str(tmp_path / "other"), own.fingerprint())
    assert find_key(key_file, table, PatientKey(KEY.encode(), False).fingerprint()).secret == KEY.encode()


def test_a_short_or_missing_key_is_refused_and_not_repeated(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="--patient-key: expected a key of at least 16 bytes, got 5"):
        given_key(str(tmp_path / "key"))
    monkeypatch.setenv(ENVIRONMENT, "abc")
    with pytest.raises(UserError, match="CXRFLOW_PATIENT_KEY: expected a key of at least 16 bytes, got 3"):
        given_key(None)
    with pytest.raises(UserError, match="expected a readable file with the key") as refused:
        given_key("the-secret-itself")
    assert "the-secret-itself" not in str(refused.value)


def test_a_table_made_with_another_key_loses_its_own(tmp_path):
    own = find_key(None, str(tmp_path))
    save_key(str(tmp_path), own)
    for fingerprint in ("", own.fingerprint()):
        remove_unused_key(str(tmp_path), fingerprint)
        assert (tmp_path / FILE).exists()
    remove_unused_key(str(tmp_path), "another")
    assert not (tmp_path / FILE).exists()
