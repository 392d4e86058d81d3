"""Workers that are watched while they train: who is lost is named, and training starts again from the last checkpoint
with what is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pyspark.sql import SparkSession
from pyspark.util import InheritableThread

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, UserError
from cxrflow.distributed import signals
from cxrflow.launch import find_launcher
from cxrflow.launch.monitor import Loss, Monitor, WorkerState
from cxrflow.spark.session import exclude_host_of, wait_for_slots

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
SETTLE_SECONDS = 5.0
"""For the others to show what a worker's end did to them."""
END_SECONDS = 20.0
"""For a launcher to give up, once all its workers have ended; then it is left alone. Where a machine is gone it may wait for
that one, so ``SETTLE_SECONDS`` have to do."""
STOP_SECONDS = 60.0
"""For a last checkpoint, after Ctrl-C or SIGTERM, and as long as a worker may take for one thing (``hang_seconds``): nobody looks
for a signal in a validation."""
EARLIER_SECONDS = 0.5
"""By so much a failure must have come before another worker's end to be its cause: news of both travel."""
SLOTS_SECONDS = 30.0
"""For the task slots of a lost worker to come back, before it is gone on with fewer."""


class WorkersLost(Exception):
    """Workers that could go on no more, for no fault of the training itself."""

    def __init__(self, losses: list[Loss], why: str):
        super().__init__(why)
        self.losses = losses


def supervise(
    spark: SparkSession,
    config: TrainConfig,
    function: Callable,
    again: Callable[[TrainConfig, int], TrainConfig],
    record: Callable[[dict], None],
    require: Callable[[], None],
) -> dict:
    """Run ``function(config, worker)`` on the launcher's workers until it ends, and return what it returned on rank 0, with
    ``restarts`` and ``lost``. ``record`` is called with the events (``watch.events``) that rank 0 tells, and of each restart;
    ``require`` all the while, and what it raises ends the training.

    After the loss of a worker it starts once more, ``config.max_restarts`` times at most, with what ``again(config, slots)`` makes
    of the configuration, for as many workers as there are task slots within ``SLOTS_SECONDS``, at least
    ``config.min_workers``. Raises UserError or JobError with a worker's own reason where it failed by itself, JobError where
    too many were lost, and Stopped after Ctrl-C or SIGTERM.
    """
    lost: list[str] = []
    attempt = config
    excluded: frozenset[str] = frozenset()
    with signals.held():
        while True:
            try:
                result = _attempt(spark, attempt, function, record, require)
                return {**result, "restarts": len(lost), "lost": lost}
            except WorkersLost as error:
                lost.append(str(error))
                if signals.wanted():
                    raise signals.stopped_without("a worker was lost meanwhile") from None
                if len(lost) > config.max_restarts:
                    raise JobError(
                        f"{error}; that was after {config.max_restarts} restarts, as many as --max-restarts allows. "
                        "The same command goes on from the last checkpoint"
                    ) from None
                excluded = excluded.union(
                    *(exclude_host_of(spark, loss.seen.executor) for loss in error.losses if loss.silent)
                )
                attempt = _next(spark, config, again, error, excluded)
                if signals.wanted():
                    raise signals.stopped_without("a worker was lost just before") from None
                record({"event": "restart", "why": str(error), "workers": attempt.workers})


def _next(
    spark: SparkSession,
    config: TrainConfig,
    again: Callable[[TrainConfig, int], TrainConfig],
    error: WorkersLost,
    excluded: frozenset[str],
) -> TrainConfig:
    """The configuration of the next attempt, with the workers that there is room for outside the ``excluded`` executors."""
    free = wait_for_slots(spark, config.workers, SLOTS_SECONDS, excluded)
    if free < config.min_workers:
        raise JobError(
            f"{error}; only {free} task slots are left, and --min-workers is {config.min_workers}. The same command "
            "goes on from the last checkpoint"
        )
    config = again(config, min(config.workers, free))
    log.warning("starting again with %d workers", config.workers)
    return config


def _attempt(
    spark: SparkSession,
    config: TrainConfig,
    function: Callable,
    record: Callable[[dict], None],
    require: Callable[[], None],
) -> dict:
    """One launch. Raises WorkersLost, or what a worker's own failure means."""
    with Monitor(spark.conf.get("spark.driver.host"), config.workers, config.hang_seconds, record) as monitor:
        launch = LaunchThread(find_launcher(config.launcher).load()(spark, config, monitor.address), function)
        losses = []
        try:
            losses = _watch(launch, monitor, require, max(STOP_SECONDS, config.hang_seconds))
            if not losses and launch.result is not None:
                monitor.wait_until_all_ended(SETTLE_SECONDS)  # rank 0's last events come another way than its result
                if launch.result.get("stopped"):
                    raise signals.stopped(launch.result)
                return launch.result
            if not losses:
                monitor.wait_until_all_ended(SETTLE_SECONDS)
                losses = monitor.losses()
            for loss in losses:  # at once: to end a launch on a machine that is gone takes a while
                log.warning("%s", _sentence(loss))
            if hanging := [loss.seen.rank for loss in losses if loss.hangs]:
                monitor.dump(hanging)
                time.sleep(1)  # what they write takes a moment to arrive, and nothing tells when it is all
            failures = monitor.failures()
        finally:
            launch.end(monitor, SETTLE_SECONDS if any(loss.silent for loss in losses) else END_SECONDS)
        for failed in failures:
            # What another worker's end did to one may look like its own fault; but not where it came before.
            if failed.end["expected"] or (
                not failed.end["exchange"] and all(_came_before(failed, loss) for loss in losses)
            ):
                why = f"{failed.end['why']} ({failed.name()}, {failed.place()})"
                raise UserError(why) if failed.end["user"] else JobError(why)
        if signals.wanted() and not losses:
            raise signals.stopped_without("it took too long, or was asked for twice")
        raise _lost(losses, failures, monitor, launch.error)


class LaunchThread:
    """A launcher at work in a thread of its own: it may wait for ever for a machine that is gone, and can be left behind
    there."""

    def __init__(self, launch, function: Callable):
        self._launch, self._function = launch, function
        self.result: dict | None = None
        self.error: BaseException | None = None
        self._thread = InheritableThread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._launch.run(self._function)
        except BaseException as error:  # of all kinds that launchers have
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self, monitor: Monitor, seconds: float) -> None:
        """End the workers, and the launcher with them; it is left behind after so many seconds."""
        if self.wait(0):
            return
        monitor.kill()
        monitor.wait_until_all_ended(SETTLE_SECONDS)
        self._launch.cancel()
        if not self.wait(seconds):
            log.warning("the launcher does not end; it is left behind")


def _came_before(failed: WorkerState, loss: Loss) -> bool:
    """Whether a worker had failed before another one's process ended, which its launcher then did to it."""
    return not (loss.hangs or loss.silent) and loss.seen.gone and failed.ended < loss.seen.ended - EARLIER_SECONDS


def _watch(launch: LaunchThread, monitor: Monitor, require: Callable[[], None], stop_seconds: float) -> list[Loss]:
    """Wait until the launch ends by itself, or workers are lost, which are returned; or, after a signal, for so many seconds
    more. What ``require`` raises ends it."""
    deadline = named = None
    while not launch.wait(POLL_SECONDS):
        require()
        if not named and (named := monitor.names()):
            log.info("training on: %s", ", ".join(named))
        losses = monitor.losses()
        if losses or monitor.failures():
            # The others fail because of it, within moments: whose fault it was shows when all have been heard.
            monitor.wait_until_all_ended(0 if any(loss.silent or loss.hangs for loss in losses) else SETTLE_SECONDS)
            after = monitor.losses()
            first = {loss.seen.rank for loss in losses}
            # Those that were lost later were mostly ended by their launcher.
            if kept := [loss for loss in after if loss.seen.rank in first] or after:
                return kept
            if monitor.failures():
                return []
        if signals.wanted() and deadline is None:
            monitor.stop()
            deadline = time.monotonic() + stop_seconds
        if signals.insisted() or (deadline is not None and time.monotonic() > deadline):
            return []
    return []


def _sentence(loss: Loss) -> str:
    return f"{loss.seen.name()} was lost {loss.seen.place()}: {loss.why}"


def _lost(losses: list[Loss], failures: list, monitor: Monitor, error: BaseException | None) -> WorkersLost:
    """Names the workers with their last words. What failed in the exchange only, says nothing beside a loss."""
    own = [seen for seen in failures if not (losses and seen.end["exchange"])]
    failed = [f"{seen.name()} failed {seen.place()}: {seen.end['why']}" for seen in own]
    for words in failed:
        log.warning("%s", words)
    ranks = [*(loss.seen.rank for loss in losses), *(seen.rank for seen in own)]
    why = "; ".join([*map(_sentence, losses), *failed])
    if not ranks:
        why = f"the launcher failed: {type(error).__name__}: {error}"
        log.warning("%s", why)
    for rank in ranks:
        if lines := monitor.lines(rank):
            log.warning("last lines of worker %d:", rank)
            for line in lines:
                log.warning("  %s", line)
    return WorkersLost(losses, why.splitlines()[0])
