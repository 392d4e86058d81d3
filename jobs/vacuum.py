"""The command ``cxrflow vacuum`` as a file, for spark-submit."""

from cxrflow.pipeline.cli import run_job

if __name__ == "__main__":
    run_job("vacuum")
