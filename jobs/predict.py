"""Score raw X-ray files with a trained model, as a Spark batch job. Research software, not a medical device.

Each file gets a row: a score for each label and the predicted label, or the reason why it could not be read.
For example:

    spark-submit jobs/predict.py --run /data/run --images /data/new --predictions /data/predictions
"""

from cxrflow.base.config import PredictConfig
from cxrflow.pipeline.cli import run_job


def main(config: PredictConfig) -> dict:
    from cxrflow.pipeline.predict_job import check_predict, predict
    from cxrflow.spark.session import job_session

    check_predict(config)
    with job_session("cxrflow predict") as spark:
        return predict(spark, config)


if __name__ == "__main__":
    run_job(PredictConfig, main, __doc__)
