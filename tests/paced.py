"""An augmentation that changes nothing, and takes its time for as long as a file exists: so that a test meets a training
in the middle of an epoch on any machine."""

import os
import time


def policy(pixels, sample_ids, *, seed, epoch):
    if os.path.exists(os.environ["CXRFLOW_PACE"]):
        time.sleep(0.1)
    return pixels
