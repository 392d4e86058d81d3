"""The events of a training, and which of their fields are curves.

Progress is counted in ``images``: the training images that all workers together were fed since the run began, with
repetitions. It is the x axis of every curve. Unlike steps, it continues when a run resumes with another number of
workers or another batch size.

A run that resumes from a checkpoint repeats what came after the checkpoint. So an event with more ``images`` than a
later ``start`` was repeated: its figures are real, but those steps are not part of the model.
"""

from __future__ import annotations

FIELDS: dict[str, dict[str, str]] = {
    "start": {
        "epoch": "the epoch that training starts or resumes in; the first is 1",
        "epochs": "number of epochs of the run",
        "images": "images fed before: 0, or those of the checkpoint that training resumes from",
        "images_per_epoch": "size of the train split",
        "steps_per_epoch": "steps of a complete epoch",
        "workers": "number of workers",
        "batch_size": "images per worker and step",
        "backend": "Keras backend: tensorflow or torch",
    },
    # About every 5 seconds, and at the last step of an epoch. "Since" means since the previous step event or, for the
    # first one of an epoch, since the epoch began. The first step of a training is left out, because it compiles.
    "step": {
        "epoch": "the first is 1",
        "epochs": "number of epochs of the run",
        "step": "step of the epoch, or of the rest of an epoch after resuming; the first is 1",
        "steps": "number of steps of that epoch, or of its rest",
        "images": "images fed since the run began",
        "loss": "in nats, mean over rank 0's images since",
        "learning_rate": "at this step",
        "images_per_second": "of all workers together, since",
        "feed_share": "share, from 0 to 1, of rank 0's time since that it waited for the next batch",
        "augment_share": "the same for augmentation",
        "step_share": "the same for the steps themselves: forward, backward, all-reduce, update",
        "other_share": "the same for everything else, such as checkpoints",
        "all_reduce_share": "the same for the all-reduce of the gradients alone: waiting for the slowest worker, and "
        "transfer; only with several workers",
        "seconds_left": "estimated time until the end of the last epoch, with validation",
    },
    "epoch": {
        "epoch": "the finished epoch; the first is 1",
        "epochs": "number of epochs of the run",
        "images": "images fed since the run began",
        "loss": "in nats, mean over all images of the train split, as they were fed",
        "val_loss": "in nats, mean over the val split",
        "val_auc": "AUC on the val split, from 0 to 1",
        "val_accuracy": "accuracy of the highest score on the val split, from 0 to 1",
        "learning_rate": "at the end of the epoch",
        "images_per_second": "of all workers together, without validation",
        "all_reduce_share": "share of rank 0's time without validation that the all-reduce took; only with "
        "several workers",
        "seconds": "duration of the epoch, with validation",
        "seconds_left": "estimated time until the end of the last epoch",
    },
    "checkpoint": {
        "epoch": "number of finished epochs",
        "images": "images fed since the run began; a run that stops now resumes from here",
    },
    "restart": {
        "why": "which worker was lost on which host, and how it was noticed; a start follows",
        "workers": "number of workers from now on",
    },
    "end": {
        "status": "finished, failed, or killed (Ctrl-C or a signal); missing if the driver crashed",
        "error": "the error; only if failed",
    },
}
"""The fields of each event, besides ``event`` (its name) and ``time`` (seconds since 1970 UTC, by the driver's clock).

Times and shares are floats, counts are integers. NaN is null in JSON."""

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
    """The event's points by the name of the curve in TensorBoard and MLflow; empty for most events."""
    names = _CURVES.get(event["event"], {})
    return {names[field]: float(event[field]) for field in names if field in event}
