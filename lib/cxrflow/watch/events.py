"""The events of a training, and which of their numbers are curves.

Places in a training are counted in ``images``: training images that all workers together have been fed since the run
began, each as often as it was fed. That is the x axis of every curve, for it goes on where a run goes on, also with
another number of workers or another batch size, of which neither is true of steps.

A run that goes on after a checkpoint redoes what came after that checkpoint. So an event with more ``images`` than
those of a later ``start`` was done again: its numbers are what happened, but not what the model was made of.
"""

from __future__ import annotations

FIELDS: dict[str, dict[str, str]] = {
    "start": {
        "epoch": "the epoch that training begins or goes on with; the first is 1",
        "epochs": "how many the run will have",
        "images": "fed before: 0, or those of the checkpoint that training goes on from",
        "images_per_epoch": "size of the train split",
        "steps_per_epoch": "of a whole epoch",
        "workers": "number of workers",
        "batch_size": "images that a worker takes at each step",
        "backend": "of Keras: tensorflow or torch",
    },
    # About every 5 seconds, and at an epoch's last step. "Since" means since the step event before or, at an epoch's
    # first one, since the epoch began; the very first step, which compiles, is left out.
    "step": {
        "epoch": "the first is 1",
        "epochs": "how many the run will have",
        "step": "of the epoch, or of what is left of an epoch that a resumed run goes on with; the first is 1",
        "steps": "how many that epoch, or what is left of it, has",
        "images": "fed since the run began",
        "loss": "nats; mean over rank 0's images since",
        "learning_rate": "at this step",
        "images_per_second": "of all workers together, since",
        "feed_share": "share of rank 0's time since, from 0 to 1, in which it waited for the next batch",
        "augment_share": "the same, in which it augmented",
        "step_share": "the same, of the steps themselves: forward, backward, exchange of the gradients, update",
        "other_share": "the same, of all else, such as checkpoints",
        "all_reduce_share": "the same, of the exchange of the gradients alone: waiting for the slowest worker, and "
        "transfer; only of several workers",
        "seconds_left": "until the end of the last epoch, with all validations",
    },
    "epoch": {
        "epoch": "the epoch that is over; the first is 1",
        "epochs": "how many the run will have",
        "images": "fed since the run began",
        "loss": "nats; mean over all images of the train split, as they were fed",
        "val_loss": "nats; mean over the val split",
        "val_auc": "of the val split, from 0 to 1",
        "val_accuracy": "of the val split at the highest score, from 0 to 1",
        "learning_rate": "at the epoch's end",
        "images_per_second": "of all workers together, without validation",
        "all_reduce_share": "share of rank 0's time without validation that the exchange of the gradients took; only of several "
        "workers",
        "seconds": "that the epoch took, with validation",
        "seconds_left": "until the end of the last epoch",
    },
    "checkpoint": {
        "epoch": "epochs that are over",
        "images": "fed since the run began; what comes after is redone if the run stops now",
    },
    "restart": {
        "why": "which worker was lost where, and how that showed; a start follows",
        "workers": "number of workers from now on",
    },
    "end": {
        "status": "finished, failed, or killed (Ctrl-C or a signal); a driver that died at once leaves no such line",
        "error": "what failed; only then",
    },
}
"""Fields of each event, beside ``event`` (its name) and ``time`` (seconds since 1970 UTC, by the driver's clock). Times
and shares are floats, counts are integers; what is not a number is null in JSON."""

_CURVES = {
    "step": {
        "loss": "train/loss",
        "learning_rate": "train/learning_rate",
        "images_per_second": "train/images_per_second",
        "feed_share": "time/feed_share",
        "augment_share": "time/augment_share",
        "step_share": "time/step_share",
        "other_share": "time/other_share",
        "all_reduce_share": "time/all_reduce_share",
    },
    "epoch": {
        "epoch": "epoch",
        "loss": "train/epoch_loss",
        "val_loss": "val/loss",
        "val_auc": "val/auc",
        "val_accuracy": "val/accuracy",
        "seconds": "time/epoch_seconds",
    },
}


def curves(event: dict) -> dict[str, float]:
    """The event's points of curves, by the curve's name, as TensorBoard and MLflow show them; none of most events."""
    names = _CURVES.get(event["event"], {})
    return {names[field]: float(event[field]) for field in names if field in event}
