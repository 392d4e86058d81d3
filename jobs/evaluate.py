"""Score a split of a table with a trained model and judge it, with a 95 % interval beside each rate.

The threshold is the one that training chose on its own validation data. For example:

    spark-submit jobs/evaluate.py --run /data/run --table /data/table --split test
"""

from cxrflow.base.config import EvaluateConfig
from cxrflow.pipeline.cli import run_job


def main(config: EvaluateConfig) -> dict:
    from cxrflow.pipeline.evaluate_job import check_evaluate, evaluate
    from cxrflow.spark.session import job_session

    check_evaluate(config)
    with job_session("cxrflow evaluate") as spark:
        return evaluate(spark, config)


if __name__ == "__main__":
    run_job(EvaluateConfig, main, __doc__)
