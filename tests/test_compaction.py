"""Which rows of which shards make up the new ones. The files themselves: test_ingest.py."""

from hypothesis import given
from hypothesis import strategies as st

from cxrflow.base.manifest import Shard
from cxrflow.spark.compaction import Piece, group_pieces, split_shard


def shard(rows):
    return Shard(path="s", split="train", rows=rows, labels={}, checksum="")


def test_a_shard_is_cut_where_rows_go_elsewhere():
    assert split_shard("s", shard(6), {1: "val", 2: "val", 4: None}) == [
        ("train", Piece("s", 0, 1)),
        ("val", Piece("s", 1, 3)),
        ("train", Piece("s", 3, 4)),
        ("train", Piece("s", 5, 6)),
    ]


def test_pieces_are_cut_into_equal_groups():
    pieces = [Piece("a", 0, 3), Piece("b", 2, 6), Piece("c", 0, 2)]
    assert group_pieces(pieces, 4) == [
        [Piece("a", 0, 3), Piece("b", 2, 3)],
        [Piece("b", 3, 6), Piece("c", 0, 1)],
        [Piece("c", 1, 2)],
    ]


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 9))
def test_every_row_is_in_one_recipe(lengths, rows):
    pieces = [Piece(str(number), 0, length) for number, length in enumerate(lengths)]
    groups = group_pieces(pieces, rows)
    assert [sum(piece.stop - piece.start for piece in group) for group in groups[:-1]] == [rows] * max(
        0, len(groups) - 1
    )
    found = [(piece.url, row) for group in groups for piece in group for row in range(piece.start, piece.stop)]
    assert found == [(piece.url, row) for piece in pieces for row in range(piece.start, piece.stop)]
