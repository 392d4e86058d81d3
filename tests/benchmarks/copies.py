"""Many images out of a few: copies whose bytes, and so whose hashes, are their own, and whose pixels are the same."""

from __future__ import annotations

from pathlib import Path


def with_comment(jpeg: bytes, comment: str) -> bytes:
    """The JPEG with a comment segment after its first marker: other bytes, the same image."""
    text = comment.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def multiply(folder: Path, out: Path, copies: int) -> Path:
    """``out``, with so many copies of every JPEG below ``folder``, each under a patient of its own."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        jpeg = path.read_bytes()
        place = out / path.relative_to(folder).parent
        place.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (place / f"{path.stem}-{copy}{path.suffix}").write_bytes(with_comment(jpeg, f"{path.name} {copy}"))
    return out
