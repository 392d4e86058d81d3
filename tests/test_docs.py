"""README and docs against the code: links, anchors, flags and files that they name exist."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cxrflow import __version__, metrics
from cxrflow.base import config, schema
from cxrflow.base.image_groups import GROUPED
from cxrflow.images import DOUBTS, REASONS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lib" / "cxrflow"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOBS = ("ingest", "train", "evaluate", "predict", "report", "vacuum", "demo")
# Flags of spark-submit, docker, kubectl and Databricks in the pages' commands.
OTHER_PROGRAMS = {
    "--archives", "--clusterrole", "--conf", "--deploy-mode", "--file", "--help", "--logdir", "--master", "--name",
    "--packages", "--params", "--py-files", "--serviceaccount", "--tag", "--target", "--total-executor-cores",
}  # fmt: skip


def is_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes for a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def flags_of(config_type: type) -> set[str]:
    names = {field.name.replace("_", "-") for field in dataclasses.fields(config_type)}
    switches = {field.name.replace("_", "-") for field in dataclasses.fields(config_type) if field.type == "bool"}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in switches}


JOB_FLAGS = {job: flags_of(getattr(config, f"{job.capitalize()}Config")) for job in JOBS}
SCRIPT_FLAGS = {
    flag
    for file in [*(ROOT / "cluster").glob("*.sh"), *(ROOT / "tests" / "benchmarks").glob("*.py")]
    for flag in re.findall(r"--[a-z][a-z-]+", file.read_text())
}


@pytest.mark.parametrize("page", PAGES, ids=is_id)
def test_relative_links_and_anchors_exist(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "changes.md"], ids=is_id)
def test_every_flag_exists(page):
    """The page of changes names flags of earlier versions."""
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()))
    assert named - set().union(*JOB_FLAGS.values()) - SCRIPT_FLAGS - OTHER_PROGRAMS == set()


@pytest.mark.parametrize("page", PAGES, ids=is_id)
def test_each_command_has_flags_of_its_job(page):
    names = "|".join(JOBS)
    commands = re.findall(rf"(?:jobs/({names})\.py|\bcxrflow ({names})\b)((?:.*\\\n)*.*)", page.read_text())
    for file, command, arguments in commands:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", arguments.partition("`")[0]))
        assert named <= JOB_FLAGS[file or command] | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=is_id)
def test_every_file_in_code_marks_exists(page):
    """Paths below the repository, or below the package, such as ``training/fit.py``."""
    roots = (ROOT, PACKAGE, ROOT / "tests" / "benchmarks")
    made = ("/", "build/", "checkpoints/", "tensorboard/", "applications/", "TABLE/", "RUN/", "tests/test_X.py")
    names = re.findall(r"`([\w./-]+/[\w./-]*)`", page.read_text())
    paths = [name for name in names if re.search(r"\.\w+$|/$", name) and not name.startswith(made)]
    missing = [path for path in paths if not any((root / path).exists() for root in roots)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=is_id)
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^|&& )make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=is_id)
def test_names_that_python_examples_import_exist(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        imports = [line for line in block.splitlines() if line.startswith(("from cxrflow", "import cxrflow"))]
        assert imports
        exec("\n".join(imports), {})


def table_in(page: str, header: str) -> dict[str, list[str]]:
    """The cells of each row of the table with this header line, by the first cell without its code marks."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    start = lines.index(header) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    cells = [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]
    return {row[0]: row[1:] for row in cells}


def test_every_reason_of_quarantine_is_explained():
    assert list(table_in("ingest.md", "| reason | meaning |")) == list(REASONS)


def test_every_kind_of_doubt_is_explained_by_the_words_of_its_notes():
    rows = table_in("ingest.md", "| kind | the note begins with | meaning |")
    assert list(rows) == list(DOUBTS)
    assert all(DOUBTS[name].beginning.startswith(cells[0]) for name, cells in rows.items())


def names_in(page: str, header: str) -> set[str]:
    """The names in code marks in the first column of the table with this header line."""
    return {name for cell in table_in(page, header) for name in re.findall(r"[\w<>]+", cell)}


def test_every_column_of_the_predictions_is_explained():
    columns = schema.predictions(["<LABEL>"]).names
    assert names_in("prediction.md", "| column | content |") == set(columns)


def test_every_figure_in_metrics_json_is_explained():
    truth, scores, patients = np.array([0, 1] * 10), np.full((20, 3), 1 / 3), np.arange(20)
    options = {"bootstrap": 10, "prevalence": (0.5, 0.5)}
    two = metrics.evaluate_scores(truth, scores[:, :2], patients, ["a", "b"], 1, 0.5, **options)
    multi = metrics.evaluate_scores(np.eye(3)[truth], scores, patients, ["a", "b", "c"], None, [0.5] * 3, bootstrap=10)
    figures = {name.removesuffix("_interval") for name in (*two, *multi)}
    assert figures <= names_in("evaluation.md", "| field | content |")


def test_every_grouping_is_explained():
    assert list(table_in("evaluation.md", "| `by` | groups |")) == list(GROUPED)


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150


def test_every_page_is_reachable_from_the_readme():
    reached, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#:]+\.md)[^)]*\)", page.read_text())
        queue.extend((page.parent / link).resolve() for link in links)
    assert reached == set(PAGES)


def test_every_picture_is_shown():
    pictures = subprocess.run(
        ["git", "ls-files", "docs/*.png"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    text = "\n".join(page.read_text() for page in PAGES)
    assert [picture for picture in pictures if Path(picture).name not in text] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_the_version_stands_once():
    """In the package; setup.py reads it, and the lock files have versions of other packages."""
    found = subprocess.run(
        ["git", "grep", "-lF", __version__, "--", ".", ":!*.lock", ":!*.png"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert found == ["lib/cxrflow/__init__.py"]
