"""Contestants "cxrflow" and "cxrflow-2": the library's feed in this process, or as two workers in two processes."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from feeding import BATCH_ROWS, Batches, Epoch, consume, feeds, serve


def open_worker(table: str, shuffle_rows: int, rank: int, workers: int) -> Epoch:
    """A worker's feed, with the memory that training gives it if nothing is asked for."""
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
            true = len(batch.sample_ids)
            yield batch.pixels[:true], batch.targets[:true, 1].astype(int)

    return epoch


def open_feed(table: str, shuffle_rows: int) -> Epoch:
    return open_worker(table, shuffle_rows, rank=0, workers=1)


def run_workers(processes: list[Connection]) -> Callable[[str, int, int, bool], dict]:
    """``run`` for ``serve``: every worker takes its part of an epoch, and the batches of a step count as one."""

    def run(table: str, epochs: int, shuffle_rows: int, check: bool) -> dict:
        results = []
        for number in range(epochs):
            started = time.perf_counter()
            for process in processes:
                process.send((table, shuffle_rows, number, check))
            parts = [process.recv() for process in processes]
            results.append({"seconds": time.perf_counter() - started, **together(parts)})
        return {"epochs": results}

    return run


def together(parts: list[dict]) -> dict:
    """What ``consume`` says, of the global batches."""
    digests = [part["digest"] for part in parts]
    return {
        name: [sum(step) for step in zip(*(part[name] for part in parts), strict=True)] for name in ("sizes", "ones")
    } | {"digest": None if None in digests else sum(digests)}


def work(pipe: Connection, rank: int, workers: int) -> None:
    """A worker's process: the epochs that the parent asks for, until it is gone."""
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
        context.Process(target=work, args=(theirs, rank, workers), daemon=True).start()
        theirs.close()
    return [ours for ours, _ in pipes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    workers = parser.parse_args().workers
    serve(feeds(open_feed) if workers == 1 else run_workers(start_workers(workers)))


if __name__ == "__main__":
    main()
