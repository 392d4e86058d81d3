import pytest

from cxrflow.base.secure_versions import SECURE_VERSIONS, find_insecure, installed_versions


@pytest.mark.parametrize(
    ("name", "version", "insecure"),
    [
        ("pillow", "13.0.0", False),
        ("pillow", "12.3.0", True),
        ("torch", "2.10.0+cpu", False),
        ("torch", "2.9.1", True),
        ("pyarrow", "14.0.0", True),
        ("pyarrow", "14.0.1", False),
        ("keras", "missing", False),
        ("numpy", "1.0", False),
    ],
)
def test_older_versions_are_insecure(name, version, insecure):
    found = find_insecure({name: version})
    assert bool(found) == insecure and (not found or f"{name} {version} is older than" in found[0])


def test_this_environment_is_secure():
    installed = installed_versions()
    assert set(installed) == set(SECURE_VERSIONS) and find_insecure(installed) == []
