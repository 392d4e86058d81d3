"""Contestant "tfrecord": TFRecord files through tf.data, as its performance guide shows.

Files come in random order through a parallel interleave and a shuffle buffer. Whole batches are parsed at once.
"""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from feeding import BATCH_ROWS, SHAPE, Batches, Epoch, feeds, read_shard, serve, shards

FILES_AT_A_TIME = 16
"""Files that are interleaved. More files shuffle better."""
FEATURES = {"pixels": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}


def convert(table: str, out: str) -> None:
    """Write a TFRecord file for each Parquet file."""
    for number, path in enumerate(shards(table)):
        with tf.io.TFRecordWriter(str(Path(out, f"{number:05d}.tfrecord"))) as file:
            for image, label in zip(*read_shard(path), strict=True):
                file.write(as_example(image.tobytes(), int(label)))


def as_example(pixels: bytes, label: int) -> bytes:
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "pixels": tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
            }
        )
    ).SerializeToString()


def parse(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = tf.io.parse_example(examples, FEATURES)
    return tf.reshape(tf.io.decode_raw(parsed["pixels"], tf.uint8), (-1, *SHAPE)), parsed["label"]


def open_feed(data: str, shuffle_rows: int) -> Epoch:
    files = tf.data.Dataset.list_files(f"{data}/*.tfrecord", shuffle=True)
    records = files.interleave(
        tf.data.TFRecordDataset, cycle_length=FILES_AT_A_TIME, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
    )
    batches = records.shuffle(shuffle_rows).batch(BATCH_ROWS).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = batches.prefetch(tf.data.AUTOTUNE)  # shuffled anew at each iteration

    def epoch(number: int) -> Batches:
        return dataset.as_numpy_iterator()

    return epoch


if __name__ == "__main__":
    serve(feeds(open_feed), convert)
