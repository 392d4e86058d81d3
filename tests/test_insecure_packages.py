import sys
import time

import pytest

from cxrflow.spark.insecure_packages import warn_about_insecure_packages

pytestmark = pytest.mark.spark


def test_secure_executors_log_nothing(spark, caplog):
    warn_about_insecure_packages(spark)
    assert not caplog.records


def test_old_package_on_executors_is_one_warning_on_the_driver(spark, caplog, tmp_path):
    """Executors find the metadata of an old Pillow first on their path."""
    metadata = tmp_path / "pillow-12.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 12.0.0\n")
    folder = str(tmp_path)

    def put_first(_):
        sys.path.insert(0, folder)
        time.sleep(0.3)  # so that each slot's Python process takes one of the tasks

    def take_away(_):
        sys.path[:] = [path for path in sys.path if path != folder]
        time.sleep(0.3)

    slots = spark.sparkContext.defaultParallelism
    tasks = spark.sparkContext.parallelize(range(slots), slots)
    tasks.foreachPartition(put_first)
    try:
        warn_about_insecure_packages(spark)
    finally:
        tasks.foreachPartition(take_away)
    [record] = caplog.records
    assert "pillow 12.0.0 is older than 13.0.0 (CVE-2026-112403" in record.getMessage()
