"""Writes events as lines for the person who started the job."""

from __future__ import annotations

import sys


class TerminalSink:
    """Writes lines to standard error."""

    seconds = 0.0

    def write(self, events: list[dict]) -> None:
        """Show each event."""
        for event in events:
            show(event)


def show(event: dict) -> None:
    """Write the event's line, if it has one, to standard error."""
    line = line_of(event)
    if line is not None:
        print("".join(char for char in line if char.isprintable()), file=sys.stderr, flush=True)


def line_of(event: dict) -> str | None:
    """The line of an event; None if the terminal shows nothing."""
    make = {"start": _start, "step": _step, "epoch": _epoch}.get(event["event"])
    return make(event) if make else None


def _start(event: dict) -> str:
    workers = "1 worker trains" if event["workers"] == 1 else f"{event['workers']} workers train"
    line = (
        f"{workers} with {event['backend']}: {event['epochs']} epochs of {event['images_per_epoch']} images, "
        f"{event['steps_per_epoch']} steps each"
    )
    return f"{line}; resumes in epoch {event['epoch']}" if event["images"] else line


def _step(event: dict) -> str | None:
    if event["step"] == event["steps"]:
        return None  # the line of the epoch follows
    all_reduce = f" ({event['all_reduce_share']:.0%} all-reduce)" if "all_reduce_share" in event else ""
    return (
        f"epoch {event['epoch']}/{event['epochs']}, step {event['step']}/{event['steps']}: "
        f"loss {event['loss']:.4f}, {event['images_per_second']:.0f} images/s{all_reduce}, "
        f"{duration(event['seconds_left'])} left"
    )


def _epoch(event: dict) -> str:
    left = f", {duration(event['seconds_left'])} left" if event["seconds_left"] >= 1 else ""
    return (
        f"epoch {event['epoch']}/{event['epochs']}: loss {event['loss']:.4f}, val loss {event['val_loss']:.4f}, "
        f"val AUC {event['val_auc']:.4f}, val accuracy {event['val_accuracy']:.3f}, "
        f"{event['images_per_second']:.0f} images/s, {duration(event['seconds'])}{left}"
    )


def duration(seconds: float) -> str:
    """A length of time as text: 42 s, 12 min, 3 h 20 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
