"""An augmentation that changes nothing, and takes its time for as long as a file exists: so that a test meets a training
in the middle of an epoch on any machine. A pipe beside that file, with the ending .hold, holds it until somebody writes there."""

import os
import time


def policy(pixels, sample_ids, *, seed, epoch):
    if os.path.exists(os.environ["CXRFLOW_PACE"]):
        time.sleep(0.3)
    if os.path.exists(hold := os.environ["CXRFLOW_PACE"] + ".hold"):
        open(hold).close()
    return pixels
