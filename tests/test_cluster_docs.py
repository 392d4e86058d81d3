"""The commands for Kubernetes and YARN in docs/cluster.md: Spark knows the settings, and the jobs parse the flags."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import tyro

from cxrflow.base.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "cluster"
# Objects of Spark, by section of the page. They register their settings when they are loaded.
REGISTERS = {
    "Kubernetes": "org.apache.spark.deploy.k8s.Config$",
    "YARN": "org.apache.spark.deploy.yarn.config.package$",
}
# Settings whose names contain the user's own names, and one that Spark reads without registering it.
FAMILIES = (
    r"spark\.local\.dir",
    r"spark\.kubernetes\.(driver|executor)\.volumes\.persistentVolumeClaim\.\w+\.(options\.claimName|mount\.path)",
    r"spark\.(executorEnv|yarn\.appMasterEnv)\.\w+",
    r"spark\.(executor|task)\.resource\.gpu\.(amount|vendor|discoveryScript)",
)


def section(title: str) -> str:
    text = (ROOT / "docs" / "cluster.md").read_text()
    return re.search(rf"^## {title}\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]


def entry_of(spark, name: str):
    return spark._jvm.org.apache.spark.internal.config.ConfigEntry.findEntry(name)


@pytest.mark.parametrize("title", REGISTERS)
def test_spark_knows_every_setting_and_takes_its_value(spark, title):
    spark._jvm.java.lang.Class.forName(REGISTERS[title])
    text = section(title)
    named = set(re.findall(r"spark\.[A-Za-z][\w.]*\w", re.sub(r"local:///\S+", "", text)))
    named = {name for name in named if not any(re.fullmatch(form, name) for form in FAMILIES)}
    assert {name for name in named if entry_of(spark, name) is None} == set()
    conf = spark._jvm.org.apache.spark.SparkConf(False)
    for name, value in re.findall(r"--conf (spark\.[\w.]+)=(\S+)", text):
        if (entry := entry_of(spark, name)) is not None:
            conf.set(name, value)
            conf.get(entry)  # raises an error for a wrong value


@pytest.mark.parametrize("title", REGISTERS)
def test_the_job_parses_its_flags(title):
    command = re.search(r"^spark-submit (?:.*\\\n)*.*", section(title), re.MULTILINE)[0]
    words = shlex.split(command.replace("\\\n", " "))
    job = next(number for number, word in enumerate(words) if word.endswith("jobs/train.py"))
    parsed = tyro.cli(TrainConfig, args=words[job + 1 :])
    conf = dict(setting.split("=") for flag, setting in itertools.pairwise(words) if flag == "--conf")
    slots = int(conf["spark.executor.instances"]) * int(conf["spark.executor.cores"]) // int(conf["spark.task.cpus"])
    assert (parsed.launcher, parsed.workers) == ("torch", slots)


def test_the_image_has_the_spark_and_python_of_the_lock_files():
    image = (CLUSTER / "Dockerfile").read_text()
    version = re.search(r"^ARG SPARK_VERSION=(\S+)", image, re.MULTILINE)[1]
    assert f"\npyspark=={version} " in (ROOT / "requirements.lock").read_text()
    assert "FROM python:3.11-" in image and "--python-version 3.11" in (ROOT / "Makefile").read_text()
