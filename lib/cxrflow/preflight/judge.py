"""From facts to one table and one verdict. Pure functions; ``probe`` says what the facts of a task are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cxrflow.config import TrainConfig, parse_bytes
from cxrflow.manifest import Manifest
from cxrflow.preflight.verdict import FAILED, NOTE, OK, SKIPPED, Row

MOST_NAMED = 4
FRAMEWORK_BYTES = 700 * 2**20
"""What a worker's framework, model and libraries take where no step has measured it."""


def judge(config: TrainConfig, manifest: Manifest, driver: dict[str, str], tasks: list[dict]) -> list[Row]:
    """The rows of all checks that the tasks made. ``driver``: its versions. A task where cxrflow cannot be imported has
    ``broken``, which says why, instead of facts."""
    rows = [judge_versions(driver, tasks), judge_shards(config, manifest)]
    working = [task for task in tasks if "broken" not in task]
    if working:
        rows.append(judge_network(config, working))
    if any("table" in task for task in working):  # the one that looks for its machine may be broken
        rows += [judge_table(working), judge_run(working), judge_memory(config, working), judge_step(working)]
    return rows


def judge_versions(driver: dict[str, str], tasks: list[dict]) -> Row:
    """The same Java, Python and packages everywhere. The driver may lack what only workers need."""
    seconds = _seconds(tasks, "versions")
    if broken := _errors(tasks, "versions"):
        return Row(check="versions", state=FAILED, found=broken, seconds=seconds, advice="make cxrflow's environment the "
                   "same on every machine: install the wheel there, or send it with --py-files and --archives")
    places = [("the driver", driver), *((task["host"], task["versions"]) for task in tasks)]
    differing, missing, common = [], [], []
    for name in [name for name in tasks[0]["versions"] if name != "seconds"]:
        hosts = _hosts_by_version(name, places)
        if absent := [host for host in hosts.pop("missing", []) if host != "the driver"]:
            missing.append(f"{name} is missing on {_some(absent)}")
        if len({_level(name, version) for version in hosts}) > 1:
            differing.append(f"{name} is " + ", ".join(f"{version} on {_some(where)}" for version, where in hosts.items()))
        common += [f"{name} {version}" for version in list(hosts)[:1]]
    if differing or missing:
        return Row(check="versions", state=FAILED, found="; ".join(missing + differing), seconds=seconds,
                   advice="install the same packages on every machine, or send one environment with --archives")
    return Row(check="versions", state=OK, seconds=seconds, found=", ".join(common))


def _hosts_by_version(name: str, places: list[tuple[str, dict]]) -> dict[str, list[str]]:
    """Where each version is, that of most places first. What does not say its version is left out."""
    hosts: dict[str, list[str]] = {}
    for host, versions in places:
        if versions.get(name):
            hosts.setdefault(versions[name], []).append(host)
    return dict(sorted(hosts.items(), key=lambda item: -len(item[1])))


def _level(name: str, version: str) -> str:
    """The part of a version that must be the same: of Java 17.0.9 it is 17, of Python 3.11.7 it is 3.11."""
    parts = {"java": 1, "python": 2}.get(name)
    return ".".join(version.removeprefix("1.").split(".")[:parts]) if parts else version


def judge_network(config: TrainConfig, tasks: list[dict]) -> Row:
    """Every worker reaches every other one, and the driver."""
    seconds = _seconds(tasks, "network")
    if broken := _errors(tasks, "network"):
        return Row(check="network", state=FAILED, found=broken, seconds=seconds, advice="a worker must be able to listen at "
                   "the address by which Spark knows its executor: see SPARK_LOCAL_IP and spark.driver.host")
    host = {task["rank"]: task["host"] for task in tasks}
    pairs = [f"{task['host']} cannot reach {host[rank]} ({why})" for task in tasks
             for rank, why in task["network"].get("unreached", {}).items()]
    cut = [f"{task['host']} cannot reach the driver at {task['network']['driver']}" for task in tasks
           if task["network"].get("driver")]
    if pairs or cut:
        return Row(check="network", state=FAILED, found="; ".join(_unique(pairs)[:MOST_NAMED] + _unique(cut)[:MOST_NAMED]),
                   seconds=seconds, advice="open the ports between these machines, all of them, since workers listen on any "
                   "free one; where a machine has several networks, name the right one with SPARK_LOCAL_IP")
    alone = len({task["machine"] for task in tasks}) == 1
    found = (f"{len(tasks)} tasks reach each other and the driver" if len(tasks) > 1 else "one worker, none to reach")
    if config.launcher == "torch" and not alone and (lost := [t["host"] for t in tasks if t["network"].get("loopback_name")]):
        return Row(check="network", state=NOTE, found=f"{found}; the own name of {_some(lost)} means 127.x there", seconds=seconds,
                   advice="torch may tell the others that address: mend /etc/hosts, or set spark.executorEnv.GLOO_SOCKET_IFNAME")
    return Row(check="network", state=OK, found=found, seconds=seconds)


def judge_table(tasks: list[dict]) -> Row:
    read = _of_leaders(tasks, "table")
    if broken := _errors(read, "table"):
        return Row(check="table", state=FAILED, found=broken, seconds=_seconds(read, "table"), advice="every machine must reach "
                   "the table at the same path or URL, and be allowed to read it: a mount, or a file system of fsspec")
    return Row(check="table", state=OK, seconds=_seconds(read, "table"),
               found=f"{_machines(read)} read the manifest and a shard ({sum(task['table']['rows'] for task in read)} images)")


def judge_run(tasks: list[dict]) -> Row:
    """A worker of every machine writes the run directory, and sees there what the driver and the other machines write."""
    wrote = _of_leaders(tasks, "run")
    seconds = _seconds(wrote, "run")
    if broken := _errors(wrote, "run"):
        return Row(check="run", state=FAILED, found=broken, seconds=seconds,
                   advice="every machine must be allowed to write the run directory: name another folder with --run")
    host = {str(task["rank"]): task["host"] for task in tasks} | {"driver": "the driver"}
    blind = [f"{task['host']} does not see what {_some(host[str(rank)] for rank in task['run']['unseen'])} wrote there"
             for task in wrote if task["run"]["unseen"]]
    if blind:
        return Row(check="run", state=FAILED, found="; ".join(blind[:MOST_NAMED]), seconds=seconds, advice="name a folder that "
                   "all machines share with --run (a mount, or a file system of fsspec); this one is each machine's own")
    return Row(check="run", state=OK, found=f"{_machines(wrote)} wrote a file, read it back and removed it; all saw it",
               seconds=seconds)


def judge_shards(config: TrainConfig, manifest: Manifest) -> Row:
    """Fewer shards or images than workers are legal, but what then happens may not be what was meant."""
    shards = {split: manifest.of_split(split) for split in ("train", "val")}
    images = sum(shard.rows for shard in shards["train"])
    found = f"{len(shards['train'])} shards of train ({images} images), {len(shards['val'])} of val"
    if images < config.workers * config.batch_size:
        return Row(check="shards", state=NOTE, found=f"{found}: less than one global batch of {config.workers} x "
                   f"{config.batch_size}", advice="take a smaller --batch-size or fewer --workers")
    if len(shards["train"]) < config.workers:
        return Row(check="shards", state=NOTE, found=f"{found}: fewer than {config.workers} workers, so several read each "
                   "shard", advice="ingest with fewer --shard-rows, or take fewer --workers")
    return Row(check="shards", state=OK, found=found)


def judge_memory(config: TrainConfig, tasks: list[dict]) -> Row:
    """What the workers of each machine will take, against what it, or its container, has left."""
    asked = _of_leaders(tasks, "memory")
    if broken := _errors(asked, "memory"):
        return Row(check="memory", state=NOTE, found=broken, advice="the memory of these machines could not be compared")
    feed = parse_bytes("--feed-memory", config.feed_memory)
    steps = [task["step"] for task in tasks if "peak_bytes" in task.get("step", {})]
    model = max((step_bytes(step, config.batch_size) for step in steps), default=FRAMEWORK_BYTES)
    said = f"{_size(feed)} of feed and {_size(model)} of {'model (measured)' if steps else 'framework (estimate)'}"
    machines = [task["machine"] for task in tasks]
    rows = []
    for task in asked:
        workers = min(config.workers, machines.count(task["machine"]))
        need, left = workers * (feed + model), task["memory"]["available"]
        if need > left:
            rows.append(f"{workers} workers on {task['host']} need {_size(need)}, and {_size(left)} of its "
                        f"{_size(task['memory']['total'])} are free")
    if rows:
        return Row(check="memory", state=FAILED, found=f"{'; '.join(rows[:MOST_NAMED])} (a worker: {said})",
                   advice="lower --feed-memory, --batch-size or --workers, or spread the workers over more machines")
    return Row(check="memory", state=OK, found=f"a worker needs {said}; {_size(min(t['memory']['available'] for t in asked))} "
               "are free where it is least")


def step_bytes(step: dict, batch_size: int) -> int:
    """A worker's bytes beside its feed: what the step's process took at most, and the layers' values of a larger batch."""
    return step["peak_bytes"] + step["image_bytes"] * max(0, batch_size - step["batch"])


def judge_step(tasks: list[dict]) -> Row:
    tried = _of_leaders(tasks, "step")
    if not tried:
        return Row(check="step", state=SKIPPED, found="training's own first step comes at once")
    if broken := _errors(tried, "step"):
        return Row(check="step", state=FAILED, found=broken, seconds=_seconds(tried, "step"), advice="this is what training "
                   "would have met: mend what the message names, or try the other launcher")
    return Row(check="step", state=OK, seconds=max(task["step"]["own_seconds"] for task in tried), found=f"forward and "
               f"backward with {tried[0]['step']['backend']} on {_machines(tried)}, loss {tried[0]['step']['loss']:.3f}")


def judge_slots(wanted: int, slots: int, free: int, *, local: bool, dynamic: bool, seconds: float) -> Row:
    """Spark's barrier stages need all their task slots at once, and a number of executors that does not change."""
    more = "--master local[N]" if local else "--total-executor-cores, or --num-executors and --executor-cores"
    if dynamic:
        return Row(check="slots", state=FAILED, found="spark.dynamicAllocation.enabled is true, with which Spark runs no "
                   "barrier stage", seconds=seconds, advice="set --conf spark.dynamicAllocation.enabled=false and the "
                   f"number of cores ({more})")
    if slots < wanted:
        return Row(check="slots", state=FAILED, found=f"--workers: expected at most {slots}, the task slots of this Spark "
                   f"application, got {wanted}", seconds=seconds, advice=f"ask for fewer workers, or for more cores ({more})")
    if free < wanted:
        return Row(check="slots", state=FAILED, found=f"--workers: expected at most {free}, the task slots of this Spark "
                   f"application that are free, got {wanted}; {slots - free} of {slots} are busy with other work",
                   seconds=seconds, advice="wait for its other jobs to end, or train in an application of its own")
    return Row(check="slots", state=OK, found=f"{wanted} workers, {free} of {slots} task slots free", seconds=seconds)


def judge_stage_failure(text: str, seconds: float) -> Row:
    """The row of a barrier stage that did not come to its end, from Spark's exception."""
    versions = re.search(r"Python in worker has different version \((\d+), (\d+)\) than that in driver (\d+\.\d+)", text)
    if versions:
        found = f"python is {versions[1]}.{versions[2]} on an executor and {versions[3]} on the driver"
        return Row(check="versions", state=FAILED, found=found, seconds=seconds,
                   advice="set PYSPARK_PYTHON to the same Python on every machine")
    if "cancelled" in text:
        return Row(check="slots", state=FAILED, seconds=seconds, found=f"the workers' tasks did not end within {seconds:.0f} s, "
                   "or never began", advice="look at the Spark application's page for what holds them")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(("at ", "..."))]
    telling = [line for line in lines if re.match(r"^\w[\w.]*(Error|Exception)\b", line)] or lines
    return Row(check="slots", state=FAILED, seconds=seconds, found=f"the workers' tasks failed: {(telling or ['?'])[-1][:500]}",
               advice="the executors' logs have the rest")


def _errors(tasks: list[dict], check: str) -> str:
    """What went wrong, and where; empty if nothing did."""
    hosts: dict[str, list[str]] = {}
    for task in tasks:
        error = task["broken"] if "broken" in task else task.get(check, {}).get("error")
        if error:
            hosts.setdefault(error, []).append(task["host"])
    return "; ".join(f"{error} (on {_some(where)})" for error, where in list(hosts.items())[:MOST_NAMED])


def _of_leaders(tasks: list[dict], check: str) -> list[dict]:
    return [task for task in tasks if task.get(check) is not None]


def _seconds(tasks: list[dict], check: str) -> float:
    return max((task[check]["seconds"] for task in tasks if check in task), default=0.0)


def _machines(tasks: list[dict]) -> str:
    hosts = _unique(task["host"] for task in tasks)
    return hosts[0] if len(hosts) == 1 else f"{len(hosts)} machines"


def _some(names: Iterable[str]) -> str:
    """The names, each once; the first few of many."""
    names = _unique(names)
    return " and ".join(names) if len(names) < 3 else ", ".join(names[:MOST_NAMED]) + (
        f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
