"""Train a classifier on a table, on one or many workers, streaming the images from Parquet.

The run directory receives the model, the history and the configuration. For example,
with two workers that Horovod starts in two Spark task slots:

    spark-submit jobs/train.py --table /data/table --run /data/run --launcher horovod --workers 2
"""

from cxrflow.base.config import TrainConfig
from cxrflow.pipeline.cli import run_job


def main(config: TrainConfig) -> dict:
    from cxrflow.pipeline.train_job import check_train, train
    from cxrflow.spark.session import job_session

    check_train(config)
    if config.launcher == "local":
        return train(None, config)
    with job_session("cxrflow train") as spark:
        return train(spark, config)


if __name__ == "__main__":
    run_job(TrainConfig, main, __doc__)
