"""Supervised training: reports lost workers, and restarts from the last checkpoint with the remaining task slots."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from pyspark.sql import SparkSession
from pyspark.util import InheritableThread

from cxrflow.base.config import TrainConfig
from cxrflow.base.errors import JobError, Stopped, UserError
from cxrflow.distributed import signals
from cxrflow.distributed.timeouts import Timeouts
from cxrflow.distributed.worker import Worker
from cxrflow.launch import Launch, find_launcher
from cxrflow.launch.monitor import Loss, Monitor, WorkerState
from cxrflow.spark.own_settings import read_timeouts
from cxrflow.spark.session import exclude_host_of, wait_for_slots

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2

WorkerMain = Callable[[TrainConfig, Worker], dict]


class WorkersLost(Exception):
    """Workers were lost, but training itself is not to blame."""

    def __init__(self, losses: list[Loss], reason: str, early_failure: frozenset[str] = frozenset()):
        """``early_failure``: see ``find_early_failure``."""
        super().__init__(reason)
        self.losses, self.early_failure = losses, early_failure


def supervise(
    spark: SparkSession,
    config: TrainConfig,
    function: WorkerMain,
    reconfigure: Callable[[TrainConfig, int], TrainConfig],
    record: Callable[[dict], None],
    check: Callable[[], None],
) -> dict:
    """Run ``function(config, worker)`` on the launcher's workers, and restart it after the loss of workers.

    Args:
        reconfigure: called before a restart with ``config`` and the number of workers that there are task slots for, at
            most ``config.workers``; returns the configuration to restart with.
        record: receives rank 0's events (``watch.events``), and an event for each restart.
        check: called regularly; an exception from it ends the training.

    Returns: the result on rank 0, with ``restarts`` (their number) and ``lost`` (their reasons).

    Raises:
        UserError, JobError: a worker failed for a reason of its own.
        JobError: more than ``config.max_restarts`` losses, too few task slots within ``slots_seconds``, or the same
            failure twice in a row before the first step.
        Stopped: after Ctrl-C or SIGTERM.
    """
    timeouts = read_timeouts(spark)
    reasons: list[str] = []
    attempt = config
    excluded: frozenset[str] = frozenset()
    early_failure: frozenset[str] = frozenset()
    with signals.catch_stop_signals():
        while True:
            try:
                result = _run_attempt(spark, attempt, function, record, check, timeouts)
                return {**result, "restarts": len(reasons), "lost": reasons}
            except WorkersLost as error:
                reasons.append(str(error))
                if signals.stop_requested():
                    raise signals.stopped_without_checkpoint(f"meanwhile, {error}") from None
                if is_same_failure(early_failure, error.early_failure):
                    raise JobError(
                        f"{error}; the attempt before ended in the same way before its first step, so a restart would "
                        "fail again. The workers' last lines are above; correct the cause and run the same command"
                    ) from None
                early_failure = error.early_failure
                if len(reasons) > config.max_restarts:
                    raise JobError(
                        f"{error}; the limit of {config.max_restarts} restarts (--max-restarts) is reached. "
                        "Run the same command to resume from the last checkpoint"
                    ) from None
                for loss in error.losses:
                    if loss.unreachable:
                        excluded |= exclude_host_of(spark, loss.worker.executor)
                free = _wait_for_restart_slots(spark, config, excluded, timeouts, error)
                attempt = reconfigure(config, min(config.workers, free))
                log.warning("restarting with %d workers", attempt.workers)
                if signals.stop_requested():
                    raise signals.stopped_without_checkpoint(f"just before, {error}") from None
                record({"event": "restart", "why": str(error), "workers": attempt.workers})
            except Stopped as stopped:
                if not reasons:
                    raise
                raise Stopped(stopped.signum, f"{stopped}. Before that, {reasons[-1]}") from None


def _wait_for_restart_slots(
    spark: SparkSession, config: TrainConfig, excluded: frozenset[str], timeouts: Timeouts, error: WorkersLost
) -> int:
    """The number of free task slots outside the ``excluded`` executors. Raises JobError for too few."""
    free = wait_for_slots(spark, config.workers, timeouts.slots_seconds, excluded)
    if free < config.min_workers:
        raise JobError(
            f"{error}; only {free} task slots are left, and --min-workers is {config.min_workers}. Run the same "
            "command to resume from the last checkpoint"
        )
    return free


def _run_attempt(
    spark: SparkSession,
    config: TrainConfig,
    function: WorkerMain,
    record: Callable[[dict], None],
    check: Callable[[], None],
    timeouts: Timeouts,
) -> dict:
    """One launch. Raises WorkersLost, or the error that a worker's own failure means."""
    host = spark.conf.get("spark.driver.host")
    with Monitor(host, config.workers, config.hang_seconds, record, timeouts) as monitor:
        launch = LaunchThread(find_launcher(config.launcher).load()(spark, config, monitor.endpoint), function)
        losses: list[Loss] = []
        try:
            losses = _wait_for_end_or_loss(
                launch, monitor, check, timeouts, max(timeouts.stop_seconds, config.hang_seconds)
            )
            if not losses and launch.result is not None:
                # Rank 0's last events come by another connection than its result.
                monitor.wait_until_all_ended(timeouts.reports_seconds)
                if launch.result.get("stopped"):
                    raise signals.stopped_with_checkpoint(launch.result)
                return launch.result
            if not losses:
                monitor.wait_until_all_ended(timeouts.reports_seconds)
                losses = monitor.losses()
            for loss in losses:  # now, because it takes a while to end a launch on a lost machine
                log.warning("%s", loss)
            if hung := [loss.worker.rank for loss in losses if loss.hung]:
                monitor.dump_stacks(hung)
                time.sleep(1)  # the stacks take a moment to arrive, and have no end mark
            failed = monitor.failed_workers()
        finally:
            unreachable = any(loss.unreachable for loss in losses)
            launch.end(monitor, timeouts, timeouts.reports_seconds if unreachable else timeouts.launcher_end_seconds)
        raise_own_failure(failed, losses, timeouts)
        if signals.stop_requested() and not losses:
            raise signals.stopped_without_checkpoint("it took too long, or a second signal came")
        early_failure = frozenset() if monitor.made_step() else find_early_failure(losses, failed)
        raise _workers_lost(losses, failed, monitor, launch.error, early_failure)


class LaunchThread:
    """Runs a launch in a thread of its own, which can be abandoned: it may wait for a lost machine for ever."""

    def __init__(self, launch: Launch, function: WorkerMain):
        self._launch, self._function = launch, function
        self.result: dict | None = None
        self.error: BaseException | None = None
        self._thread = InheritableThread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._launch.run(self._function)
        except BaseException as error:  # each launcher raises others
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; whether the launch has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self, monitor: Monitor, timeouts: Timeouts, seconds: float) -> None:
        """Kill the workers and cancel the launch; abandon it if it does not end within ``seconds``."""
        if self.wait(0):
            return
        monitor.kill()
        monitor.wait_until_all_ended(timeouts.reports_seconds)
        self._launch.cancel()
        if not self.wait(seconds):
            log.warning("the launcher does not end within %.0f s; it is abandoned", seconds)


def _wait_for_end_or_loss(
    launch: LaunchThread, monitor: Monitor, check: Callable[[], None], timeouts: Timeouts, stop_seconds: float
) -> list[Loss]:
    """Wait until the launch ends, a worker is lost or fails, or ``stop_seconds`` have passed since a signal.

    Returns the losses, which may be none. Raises what ``check`` raises.
    """
    deadline, announced = None, False
    while not launch.wait(POLL_SECONDS):
        check()
        if not announced and (workers := monitor.all_workers()):
            log.info("training on: %s", ", ".join(map(str, workers)))
            announced = True
        losses = monitor.losses()
        if losses or monitor.failed_workers():
            # The others fail because of it within moments. The cause is clear when all have reported.
            cause_is_known = any(loss.unreachable or loss.hung for loss in losses)
            monitor.wait_until_all_ended(0 if cause_is_known else timeouts.reports_seconds)
            all_losses = monitor.losses()
            first = {loss.worker.rank for loss in losses}
            # The launcher usually ended those that were lost later.
            if losses := [loss for loss in all_losses if loss.worker.rank in first] or all_losses:
                return losses
            if monitor.failed_workers():
                return []
        if signals.stop_requested() and deadline is None:
            monitor.stop()
            deadline = time.monotonic() + stop_seconds
        if signals.stop_repeated() or (deadline is not None and time.monotonic() > deadline):
            return []
    return []


def raise_own_failure(failed: list[WorkerState], losses: list[Loss], timeouts: Timeouts) -> None:
    """Raise UserError or JobError if a worker failed for a reason of its own.

    A worker may also fail because another one ended, so an unexpected exception counts only if it came before every
    loss.
    """
    for worker in failed:
        failure = worker.failure
        if failure is None:
            continue
        own = not failure.collective and all(_failed_before(worker, loss, timeouts) for loss in losses)
        if failure.expected or own:
            reason = f"{failure.reason} ({worker}, {worker.progress})"
            raise UserError(reason) if failure.bad_input else JobError(reason)


def _failed_before(worker: WorkerState, loss: Loss, timeouts: Timeouts) -> bool:
    """Whether the worker failed before another one's process ended, so that its launcher ended the other one."""
    if loss.hung or loss.unreachable or not loss.worker.disconnected:
        return False
    return worker.ended_at < loss.worker.ended_at - timeouts.earlier_seconds


def find_early_failure(losses: list[Loss], failed: list[WorkerState]) -> frozenset[str]:
    """Where and how an attempt failed before its first step; empty if a machine may be to blame.

    It has the phase of each lost worker whose process ended by itself, or without losses the phases and errors of the
    workers that failed. It has no ranks, hosts or numbers, which differ from attempt to attempt.
    """
    if any(not loss.worker.exited or loss.hung or loss.unreachable for loss in losses):
        return frozenset()
    if losses:
        return frozenset(f"{loss.worker.progress.phase}: its process ended" for loss in losses)
    return frozenset(
        f"{worker.progress.phase}: " + re.sub(r"\d+", "0", worker.failure.reason.splitlines()[0])
        for worker in failed
        if worker.failure and worker.failure.reason
    )


def is_same_failure(before: frozenset[str], now: frozenset[str]) -> bool:
    """Whether two attempts in a row failed in the same phase before their first step."""
    return bool(before & now)


def _workers_lost(
    losses: list[Loss],
    failed: list[WorkerState],
    monitor: Monitor,
    error: BaseException | None,
    early_failure: frozenset[str],
) -> WorkersLost:
    """The exception that names the workers; logs their last lines.

    A failed collective operation adds nothing if a loss explains it.
    """
    failures = {
        worker.rank: f"{worker} failed {worker.progress}: {worker.failure.reason}"
        for worker in failed
        if worker.failure and not (losses and worker.failure.collective)
    }
    for text in failures.values():
        log.warning("%s", text)
    ranks = [*(loss.worker.rank for loss in losses), *failures]
    reason = "; ".join([*map(str, losses), *failures.values()])
    if not ranks:
        reason = f"the launcher failed: {type(error).__name__}: {error}"
        log.warning("%s", reason)
    for rank in ranks:
        if lines := monitor.last_lines(rank):
            log.warning("last lines of worker %d:", rank)
            for line in lines:
                log.warning("  %s", line)
    return WorkersLost(losses, reason.splitlines()[0], early_failure)
