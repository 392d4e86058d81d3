"""An augmentation that changes no pixel and controls the pace, so that tests can interrupt a training within an epoch.

While the file ``CXRFLOW_PACE`` exists, each batch takes as many seconds as it says. While a named pipe
``CXRFLOW_PACE.hold`` exists, the batch waits until somebody writes to the pipe.
"""

import os
import time


def policy(pixels, sample_ids, *, seed, epoch):
    try:
        with open(os.environ["CXRFLOW_PACE"]) as file:
            time.sleep(float(file.read()))
    except FileNotFoundError:
        pass
    if os.path.exists(hold := os.environ["CXRFLOW_PACE"] + ".hold"):
        open(hold).close()
    return pixels
