import pytest

from cxrflow.base import environment


def fake_java(folder, version: str):
    (folder / "bin").mkdir(parents=True)
    java = folder / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    java.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("version", "suits"), [("1.8.0_392", True), ("11.0.2", True), ("17.0.15", True), ("21.0.8", False), ("25", False)]
)
def test_a_java_that_spark_does_not_run_on_is_passed_over(tmp_path, monkeypatch, version, suits):
    monkeypatch.setenv("JAVA_HOME", fake_java(tmp_path, version))
    assert environment.java_is_supported() is suits


def test_no_java_at_all_is_said_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert not environment.java_is_supported()
    assert "apt-get install openjdk-17" in environment.java_version(str(tmp_path))


def test_a_package_that_does_not_import_is_missing_with_the_reason():
    assert environment.package_version("numpy", "numpy")[0].isdigit()
    assert environment.package_version("numpy", "no_such_module").startswith("MISSING (ModuleNotFoundError")
