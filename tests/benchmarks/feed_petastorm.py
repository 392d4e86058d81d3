"""Contestants "petastorm" and "petastorm-tf": Petastorm as its documentation shows.

"petastorm" is make_batch_reader with shuffled row groups, shuffled rows in each, and the bytes joined to NumPy arrays.
It shuffles only within row groups. "petastorm-tf" adds make_petastorm_dataset and a shuffle buffer.
"""

from __future__ import annotations

import argparse
import warnings

warnings.filterwarnings("ignore", category=FutureWarning)

from petastorm import make_batch_reader

from contestant import PROCESSES
from feeding import BATCH_ROWS, COLUMNS, LABELS, SHAPE, Batches, Epoch, feeds, join, serve


def open_reader(table: str, number: int, **options):
    return make_batch_reader(
        f"file://{table}/samples",
        schema_fields=[f"^{name}$" for name in COLUMNS],
        reader_pool_type="thread",
        workers_count=PROCESSES,
        shuffle_row_groups=True,
        shuffle_rows=True,
        seed=number,
        num_epochs=1,
        **options,
    )


def open_numpy(table: str, shuffle_rows: int) -> Epoch:
    def epoch(number: int) -> Batches:
        with open_reader(table, number) as reader:
            for group in reader:
                labels = (group.label == LABELS[1]).astype(int)
                for start in range(0, len(labels), BATCH_ROWS):
                    yield join(group.pixels[start : start + BATCH_ROWS]), labels[start : start + BATCH_ROWS]

    return epoch


def open_tf(table: str, shuffle_rows: int) -> Epoch:
    import tensorflow as tf
    from petastorm.tf_utils import make_petastorm_dataset

    def as_arrays(row):
        return tf.reshape(tf.io.decode_raw(row.pixels, tf.uint8), (-1, *SHAPE)), tf.cast(
            row.label == LABELS[1], tf.int32
        )

    def epoch(number: int) -> Batches:
        with open_reader(table, number) as reader:
            rows = make_petastorm_dataset(reader).unbatch().shuffle(shuffle_rows, seed=number)
            batches = rows.batch(BATCH_ROWS).map(as_arrays, num_parallel_calls=tf.data.AUTOTUNE)
            yield from batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tf", action="store_true", help='run as "petastorm-tf"')
    serve(feeds(open_tf if parser.parse_args().tf else open_numpy))


if __name__ == "__main__":
    main()
