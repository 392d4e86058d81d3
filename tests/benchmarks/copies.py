"""Make many images from a few: copies with the same pixels but different bytes, and so different hashes."""

from __future__ import annotations

from pathlib import Path


def with_comment(jpeg: bytes, comment: str) -> bytes:
    """The JPEG with a comment segment after its first marker. The image stays the same."""
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def multiply(folder: Path, out: Path, copies: int) -> Path:
    """Write copies of every JPEG below ``folder`` to ``out``, each for a patient of its own. Returns ``out``."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        jpeg = path.read_bytes()
        target = out / path.relative_to(folder).parent
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (target / f"{path.stem}-{copy}{path.suffix}").write_bytes(with_comment(jpeg, f"{path.name} {copy}"))
    return out
