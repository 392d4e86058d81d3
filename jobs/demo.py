"""Run every job in turn, each through spark-submit: ingest, train, evaluate, predict, report.

Without --images it draws synthetic phantoms to work on. For example:

    python jobs/demo.py --folder build/demo --launcher horovod --workers 2
"""

from cxrflow.base.config import DemoConfig
from cxrflow.pipeline.cli import run_job


def main(config: DemoConfig) -> dict:
    from cxrflow.pipeline.demo_job import run_demo

    return run_demo(config)


if __name__ == "__main__":
    run_job(DemoConfig, main, __doc__)
