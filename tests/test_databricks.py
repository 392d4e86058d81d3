"""The Databricks bundle against the code: the files it names exist, and the jobs parse the arguments it passes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import tyro
import yaml

from cxrflow.base import config
from cxrflow.launch import LAUNCHERS
from cxrflow.pipeline.commands import COMMANDS

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"
PROJECT = CLUSTER.parent
BUNDLE = yaml.safe_load((CLUSTER / "databricks.yml").read_text())
JOB_FILE = CLUSTER / "resources" / "cxrflow_job.yml"
JOB_TEXT = JOB_FILE.read_text()
JOB = yaml.safe_load(JOB_TEXT)["resources"]["jobs"]["cxrflow"]
TASKS = {task["task_key"]: task for task in JOB["tasks"]}
PARAMETERS = {parameter["name"]: parameter["default"] for parameter in JOB["parameters"]}
TARGETS = BUNDLE["targets"]
# Variables without a default, which the user sets.
GIVEN = {"data": "/Volumes/main/default/xrays", "node_type_id": "some.type"}


def variables(target: str) -> dict[str, str]:
    defaults = {name: entry["default"] for name, entry in BUNDLE["variables"].items() if "default" in entry}
    return {**defaults, **TARGETS[target]["variables"], **GIVEN}


def arguments(task: str, target: str) -> list[str]:
    """The command line of a task's job with the default parameters."""

    def variable(match):
        return str(variables(target)[match[1]])

    def parameter(match):
        return re.sub(r"\$\{var\.(\w+)\}", variable, PARAMETERS[match[1]])

    return [
        re.sub(r"\{\{job\.parameters\.(\w+)\}\}", parameter, part)
        for part in TASKS[task]["spark_python_task"]["parameters"]
    ]


def below(file: Path, path: str) -> Path:
    """A path of the bundle, which is relative to the file that contains it."""
    return (file.parent / path).resolve()


def test_the_job_file_is_included():
    included = [path for pattern in BUNDLE["include"] for path in CLUSTER.glob(pattern)]
    assert included == [JOB_FILE]


def test_no_workspace_is_named():
    assert "workspace" not in BUNDLE
    assert not any("workspace" in target for target in TARGETS.values())
    assert "https://" not in (CLUSTER / "databricks.yml").read_text() + JOB_TEXT


def test_tasks_are_the_jobs_in_data_order():
    assert list(TASKS) == ["ingest", "train", "evaluate", "predict", "report"]
    before = [None, *TASKS]
    for task, previous in zip(TASKS.values(), before, strict=False):
        assert [entry["task_key"] for entry in task.get("depends_on", [])] == ([previous] if previous else [])


@pytest.mark.parametrize("task", TASKS)
def test_task_runs_the_job_of_its_name(task):
    file = below(JOB_FILE, TASKS[task]["spark_python_task"]["python_file"])
    assert file == PROJECT / "jobs" / f"{task}.py"
    assert file.is_file()
    assert any(file.is_relative_to(below(CLUSTER / "databricks.yml", path)) for path in BUNDLE["sync"]["paths"])
    assert TASKS[task]["job_cluster_key"] in {cluster["job_cluster_key"] for cluster in JOB["job_clusters"]}


@pytest.mark.parametrize("task", TASKS)
def test_task_installs_the_wheel_that_the_bundle_builds(task):
    artifact = BUNDLE["artifacts"]["cxrflow"]
    built = [below(CLUSTER / "databricks.yml", entry["source"]) for entry in artifact["files"]]
    wheels = [library["whl"] for library in TASKS[task]["libraries"] if "whl" in library]
    assert [below(JOB_FILE, wheel) for wheel in wheels] == built
    root = below(CLUSTER / "databricks.yml", artifact["path"])
    assert (root / "setup.py").is_file()
    assert built[0].parent == root / re.search(r"--wheel-dir (\S+)", artifact["build"])[1]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", requirement)[0].lower() for requirement in requirements}


def requirements_files(task: str) -> list[Path]:
    libraries = TASKS[task]["libraries"]
    return [below(JOB_FILE, library["requirements"]) for library in libraries if "requirements" in library]


def requirements_of(file: Path) -> list[str]:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line]


def extras() -> dict[str, list[str]]:
    tree = ast.parse((PROJECT / "setup.py").read_text())
    assigned = (node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS")
    return ast.literal_eval(next(assigned).value)


@pytest.mark.parametrize(
    ("task", "extra"),
    [("ingest", "dicom"), ("train", None), ("evaluate", None), ("predict", "dicom"), ("report", "report")],
)
def test_task_installs_the_extra_that_its_job_needs(task, extra):
    assert requirements_files(task) == ([CLUSTER / f"requirements-{extra}.txt"] if extra else [])
    assert all(file.is_file() for file in requirements_files(task))


@pytest.mark.parametrize("extra", ["dicom", "report"])
def test_requirements_are_those_of_the_extra(extra):
    requirements = requirements_of(CLUSTER / f"requirements-{extra}.txt")
    assert requirements[-1] == "numpy<2"
    assert names(requirements[:-1]) == names(extras()[extra])
    pins = [requirement for requirement in requirements if "==" in requirement]
    locked = (PROJECT / "requirements.lock").read_text()
    assert [pin for pin in pins if f"\n{pin} \\\n" not in "\n" + locked] == []
    assert set(requirements[:-1]) <= {*pins, *extras()[extra]}


def test_every_parameter_is_declared_once_used_and_has_a_value():
    used = set(re.findall(r"\{\{job\.parameters\.(\w+)\}\}", JOB_TEXT))
    assert used == set(PARAMETERS)
    assert len(PARAMETERS) == len(JOB["parameters"])
    assert all(isinstance(value, str) and value for value in PARAMETERS.values())


def test_every_variable_is_declared_and_has_a_value_in_both_targets():
    used = set(re.findall(r"\$\{var\.(\w+)\}", JOB_TEXT))
    assert used == set(BUNDLE["variables"])
    for target in TARGETS:
        assert set(variables(target)) == used


def test_each_target_has_the_runtime_of_its_launcher():
    chosen = {name: target["variables"]["spark_version"] for name, target in TARGETS.items()}
    assert chosen == {"horovod": "15.4.x-cpu-ml-scala2.12", "torch": "16.4.x-cpu-ml-scala2.12"}
    assert [name for name, target in TARGETS.items() if target.get("default")] == ["horovod"]
    assert JOB["job_clusters"][0]["new_cluster"]["spark_version"] == "${var.spark_version}"
    for name, target in TARGETS.items():
        assert target["variables"]["launcher"] == {"horovod": "horovodrunner"}.get(name, name)
        assert target["variables"]["launcher"] in LAUNCHERS


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("task", TASKS)
def test_the_jobs_parse_what_they_get(task, target):
    config_type = getattr(config, f"{task.capitalize()}Config")
    assert f'run_job("{task}")' in (PROJECT / "jobs" / f"{task}.py").read_text()
    assert COMMANDS[task].config is config_type
    parsed = tyro.cli(config_type, args=arguments(task, target))
    for name in ("images", "table", "run", "predictions"):
        assert getattr(parsed, name, None) in (None, f"{GIVEN['data']}/{name}")
    if task == "train":
        assert (parsed.launcher, parsed.workers, parsed.batch_size) == (TARGETS[target]["variables"]["launcher"], 4, 32)


@pytest.mark.parametrize(
    ("task", "parameter", "default"),
    [
        ("ingest", "if_table_exists", "extend"),
        ("train", "if_run_exists", "resume"),
        ("predict", "if_predictions_exist", "fail"),
    ],
)
def test_what_happens_to_existing_results_is_a_parameter_of_each_job(task, parameter, default, monkeypatch):
    config_type = getattr(config, f"{task.capitalize()}Config")
    assert PARAMETERS[parameter] == default == config_type.if_exists
    assert tyro.cli(config_type, args=arguments(task, "torch")).if_exists == default
    monkeypatch.setitem(PARAMETERS, parameter, "overwrite")
    assert tyro.cli(config_type, args=arguments(task, "torch")).if_exists == "overwrite"


def test_the_init_script_installs_what_the_tests_ran_with():
    destination = JOB["job_clusters"][0]["new_cluster"]["init_scripts"][0]["workspace"]["destination"]
    script = PROJECT / destination.removeprefix("${workspace.file_path}/")
    pins = re.findall(r"\b[\w-]+==\S+", script.read_text())
    # diskcache is the only dependency of Petastorm that the runtimes lack. They have Spark, NumPy and pandas.
    assert names(pins) == names(extras()["train"]) | {"petastorm", "pyarrow", "diskcache"}
    locked = (PROJECT / "requirements.lock").read_text()
    assert [pin for pin in pins if f"\n{pin} \\\n" not in "\n" + locked] == []
