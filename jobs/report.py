"""Draw a run as PNG files and one self-contained HTML page that needs no network.

The page has the learning curves and, after evaluate.py, ROC, confusion matrix and example images with their scores.
For example:

    python jobs/report.py --run /data/run --predictions /data/predictions
"""

from cxrflow.base.config import ReportConfig
from cxrflow.pipeline.cli import run_job


def main(config: ReportConfig) -> dict:
    from cxrflow.report.page import write_report

    return write_report(config)


if __name__ == "__main__":
    run_job(ReportConfig, main, __doc__)
