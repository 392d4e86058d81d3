"""Contestants "cxrflow" and "cxrflow-2": our feed for one worker in this process, or for two in a process each."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from feeding import BATCH_ROWS, Batches, Epoch, consume, feeds, serve


def open_worker(table: str, shuffle_rows: int, rank: int, workers: int) -> Epoch:
    """A worker's feed with training's default memory."""
    from cxrflow.base.config import TrainConfig
    from cxrflow.base.manifest import read_manifest
    from cxrflow.training.feed import Feed
    from cxrflow.training.feed_budget import feed_size

    config = TrainConfig(table=table, run="", workers=workers, batch_size=BATCH_ROWS, shuffle_rows=shuffle_rows)
    manifest = read_manifest(table)
    feed = Feed(
        table,
        manifest,
        "train",
        rank=rank,
        workers=workers,
        batch_size=BATCH_ROWS,
        shuffle=True,
        size=feed_size(config, manifest),
    )

    def epoch(number: int) -> Batches:
        for batch in feed.epoch(number):
            samples = len(batch.sample_ids)
            yield batch.pixels[:samples], batch.targets[:samples, 1].astype(int)

    return epoch


def open_feed(table: str, shuffle_rows: int) -> Epoch:
    return open_worker(table, shuffle_rows, rank=0, workers=1)


def run_workers(pipes: list[Connection]) -> Callable[[str, int, int, bool], dict]:
    """``run`` for ``serve``: each worker feeds its part of an epoch. A step's batches count as one global batch."""

    def run(table: str, epochs: int, shuffle_rows: int, check: bool) -> dict:
        results = []
        for number in range(epochs):
            started = time.perf_counter()
            for pipe in pipes:
                pipe.send((table, shuffle_rows, number, check))
            answers = [pipe.recv() for pipe in pipes]
            results.append({"seconds": time.perf_counter() - started, **combine(answers)})
        return {"epochs": results}

    return run


def combine(answers: list[dict]) -> dict:
    """The result of ``consume`` for the global batches, from those of all workers."""
    digests = [answer["digest"] for answer in answers]
    return {
        name: [sum(step) for step in zip(*(answer[name] for answer in answers), strict=True)]
        for name in ("sizes", "ones")
    } | {"digest": None if None in digests else sum(digests)}


def worker_main(pipe: Connection, rank: int, workers: int) -> None:
    """A worker's process: feeds the epochs that its parent requests, until the parent closes the pipe."""
    epoch = None
    while True:
        try:
            table, shuffle_rows, number, check = pipe.recv()
        except EOFError:
            return
        if number == 0:
            epoch = open_worker(table, shuffle_rows, rank, workers)
        pipe.send(consume(epoch(number), check))


def start_workers(workers: int) -> list[Connection]:
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(workers)]
    for rank, (_, theirs) in enumerate(pipes):
        context.Process(target=worker_main, args=(theirs, rank, workers), daemon=True).start()
        theirs.close()
    return [ours for ours, _ in pipes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    serve(feeds(open_feed) if workers == 1 else run_workers(start_workers(workers)))


if __name__ == "__main__":
    main()
