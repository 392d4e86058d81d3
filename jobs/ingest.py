"""Decode a folder of X-ray files on the Spark executors and write them as a training table.

Every file ends in the table's samples or, with the reason, in its quarantine. All images of a patient go to the
same split. For example:

    spark-submit jobs/ingest.py --images /data/xrays --table /data/table --height 224 --width 224
"""

from cxrflow.base.config import IngestConfig
from cxrflow.pipeline.cli import run_job


def main(config: IngestConfig) -> dict:
    from cxrflow.pipeline.ingest_job import check_ingest, ingest
    from cxrflow.spark.session import job_session

    check_ingest(config)
    with job_session("cxrflow ingest") as spark:
        return ingest(spark, config)


if __name__ == "__main__":
    run_job(IngestConfig, main, __doc__)
