"""An augmentation that changes no pixel and controls the pace, so that tests can interrupt a training within an epoch.

While the file ``CXRFLOW_PACE`` exists, each batch takes 0.3 s. While a named pipe ``CXRFLOW_PACE.hold`` exists, the
batch waits until somebody writes to the pipe.
"""

import os
import time


def policy(pixels, sample_ids, *, seed, epoch):
    if os.path.exists(os.environ["CXRFLOW_PACE"]):
        time.sleep(0.3)
    if os.path.exists(hold := os.environ["CXRFLOW_PACE"] + ".hold"):
        open(hold).close()
    return pixels
