"""From facts to one table and one verdict. Pure functions; ``probe`` says what the facts of a task are."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.manifest import Manifest
from cxrflow.base.secure_versions import find_insecure
from cxrflow.preflight.verdict import SKIPPED, Row, failed, note, ok

MOST_NAMED = 4
FRAMEWORK_BYTES = 700 * 2**20
"""What a worker's framework, model and libraries take where no step has measured it."""
CHECKPOINT_COPIES = 9
"""Of the weights: themselves, their average and the optimizer's two moments, as arrays and as the bytes that are written, and
the network that is saved."""


def judge(config: TrainConfig, manifest: Manifest, driver: dict[str, str], tasks: list[dict]) -> list[Row]:
    """The rows of all checks that the tasks made. ``driver``: its versions. A task where cxrflow cannot be imported has
    ``broken``, which says why, instead of facts."""
    rows = [judge_versions(driver, tasks), judge_shards(config, manifest)]
    working = [task for task in tasks if "broken" not in task]
    if working:
        rows.append(judge_network(config, working))
    if any("table" in task for task in working):  # the one that looks for its machine may be broken
        rows += [judge_table(working), judge_run(working), judge_memory(config, working), judge_step(config, working)]
    return rows


def judge_versions(driver: dict[str, str], tasks: list[dict]) -> Row:
    """The same Java, Python and packages everywhere. The driver may lack what only workers need."""
    seconds = _seconds(tasks, "versions")
    if broken := _errors(tasks, "versions"):
        return failed(
            "versions",
            broken,
            "make cxrflow's environment the same on every machine: install the wheel "
            "there, or send it with --py-files and --archives",
            seconds,
        )
    places = [("the driver", driver), *((task["host"], task["versions"]) for task in tasks)]
    wrong, common = [], []
    for name in [name for name in tasks[0]["versions"] if name != "seconds"]:
        hosts = _hosts_by_version(name, places)
        if absent := [host for host in hosts.pop("missing", []) if host != "the driver"]:
            wrong.append(f"{name} is missing on {_some(absent)}")
        if len({_level(name, version) for version in hosts}) > 1:
            wrong.append(f"{name} is " + ", ".join(f"{found} on {_some(where)}" for found, where in hosts.items()))
        common += [f"{name} {version}" for version in list(hosts)[:1]]
    if wrong:
        return failed(
            "versions",
            "; ".join(wrong),
            "install the same packages on every machine, or send one environment with --archives",
            seconds,
        )
    insecure: dict[str, list[str]] = {}
    for host, versions in places[1:]:
        for fault in find_insecure({name: text for name, text in versions.items() if isinstance(text, str)}):
            insecure.setdefault(fault, []).append(host)
    if insecure:
        faults = "; ".join(f"{fault} on {_some(hosts)}" for fault, hosts in insecure.items())
        return note("versions", faults, "install newer packages, or train only on files that you trust", seconds)
    return ok("versions", ", ".join(common), seconds)


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
        return failed(
            "network",
            broken,
            "a worker must be able to listen at the address by which Spark knows its "
            "executor: see SPARK_LOCAL_IP and spark.driver.host",
            seconds,
        )
    host = {task["rank"]: task["host"] for task in tasks}
    pairs = _unique(
        f"{task['host']} cannot reach {host[rank]} ({why})"
        for task in tasks
        for rank, why in task["network"]["unreached"]
    )
    cut = _unique(
        f"{task['host']} cannot reach the driver at {task['network']['driver']}"
        for task in tasks
        if task["network"]["driver"]
    )
    if pairs or cut:
        return failed(
            "network",
            "; ".join(pairs[:MOST_NAMED] + cut[:MOST_NAMED]),
            "open all ports between these "
            "machines, since workers listen on any free one; where a machine has several "
            "networks, name the right one with SPARK_LOCAL_IP",
            seconds,
        )
    if config.launcher in ("horovod", "horovodrunner") and len({task["machine"] for task in tasks}) > 1:
        if lost := [task["host"] for task in tasks if task["network"]["loopback_name"]]:
            return failed(
                "network",
                f"the own name of {_some(lost)} means 127.x there",
                "Horovod tells the other "
                "machines that address: give it the machine's own in /etc/hosts, or use --launcher torch",
                seconds,
            )
        cards: dict[str, list[str]] = {}
        for task in tasks:
            cards.setdefault(task["network"]["card"], []).append(task["host"])
        if len(cards) > 1:
            return failed(
                "network",
                "the network card is " + ", ".join(f"{card} on {_some(hosts)}" for card, hosts in cards.items()),
                "Horovod wants the same name on all of them: rename it, or use --launcher torch",
                seconds,
            )
    found = f"{len(tasks)} tasks reach each other and the driver" if len(tasks) > 1 else "one worker, none to reach"
    return ok("network", found, seconds)


def judge_table(tasks: list[dict]) -> Row:
    """A task of every machine read the manifest and a shard."""
    read = _of_leaders(tasks, "table")
    seconds = _seconds(read, "table")
    if broken := _errors(read, "table"):
        return failed(
            "table",
            broken,
            "every machine must reach the table at the same path or URL, and be allowed to "
            "read it: a mount, or a file system of fsspec",
            seconds,
        )
    images = sum(task["table"]["rows"] for task in read)
    return ok("table", f"{_machines(read)} read the manifest and a shard ({images} images)", seconds)


def judge_run(tasks: list[dict]) -> Row:
    """A task of every machine wrote the run directory, and saw there what the driver and the other machines wrote."""
    wrote = _of_leaders(tasks, "run")
    seconds = _seconds(wrote, "run")
    if broken := _errors(wrote, "run"):
        return failed(
            "run",
            broken,
            "every machine must be allowed to write the run directory: name another folder with --run",
            seconds,
        )
    host = {task["rank"]: task["host"] for task in tasks} | {"driver": "the driver"}
    blind = [
        f"{task['host']} does not see what {_some(host[rank] for rank in task['run']['unseen'])} wrote there"
        for task in wrote
        if task["run"]["unseen"]
    ]
    if blind:
        return failed(
            "run",
            "; ".join(blind[:MOST_NAMED]),
            "this folder is each machine's own: name one that all "
            "share with --run, on a mount or a file system of fsspec",
            seconds,
        )
    return ok("run", f"{_machines(wrote)} wrote a file, read it back and removed it; all saw it", seconds)


def judge_shards(config: TrainConfig, manifest: Manifest) -> Row:
    """Fewer shards or images than workers are legal, but what then happens may not be what was meant."""
    shards = {split: manifest.of_split(split) for split in ("train", "val")}
    images = sum(shard.rows for shard in shards["train"])
    found = f"{len(shards['train'])} shards of train ({images} images), {len(shards['val'])} of val"
    if images < config.workers * config.batch_size:
        return note(
            "shards",
            f"{found}: less than one global batch of {config.workers} x {config.batch_size}",
            "take a smaller --batch-size or fewer --workers",
        )
    if len(shards["train"]) < config.workers:
        return note(
            "shards",
            f"{found}: fewer than {config.workers} workers, so several read each shard",
            "ingest with fewer --shard-rows, or take fewer --workers",
        )
    return ok("shards", found)


def judge_memory(config: TrainConfig, tasks: list[dict]) -> Row:
    """What the workers of each machine will take, against what it, or its container, has left."""
    asked = _of_leaders(tasks, "memory")
    if broken := _errors(asked, "memory"):
        return note("memory", broken, "the memory of these machines could not be compared")
    feed = parse_bytes("--feed-memory", config.feed_memory)
    steps = [task["step"] for task in tasks if "peak_bytes" in task.get("step", {})]
    model = max((step_bytes(step, config.batch_size) for step in steps), default=FRAMEWORK_BYTES)
    said = f"{_size(feed)} of feed and {_size(model)} of {'model (measured)' if steps else 'framework (estimate)'}"
    machines = [task["machine"] for task in tasks]
    short, room = [], 0
    for task in asked:
        slots = machines.count(task["machine"])
        workers = min(config.workers, slots)
        need, left = workers * (feed + model), task["memory"]["available"]
        room += min(slots, left // (feed + model))
        if need > left:
            short.append(
                f"{task['host']} has {_size(left)} free of {_size(task['memory']['total'])}, and {workers} "
                f"{'worker needs' if workers == 1 else 'workers need'} {_size(need)}"
            )
    if short:  # where there is room for all of them, Spark may deal them out so
        return (failed if room < config.workers else note)(
            "memory",
            f"{'; '.join(short[:MOST_NAMED])} (each {said})",
            "lower --feed-memory, --batch-size or --workers, or spread the workers over more machines",
        )
    least = min(task["memory"]["available"] for task in asked)
    return ok("memory", f"a worker needs {said}; {_size(least)} are free where it is least")


def step_bytes(step: dict, batch_size: int) -> int:
    """A worker's bytes beside its feed: what the step's process took at most, the layers' values of a larger batch, which lie
    elsewhere where there is a GPU, and a checkpoint."""
    values = 0 if step["gpus"] else step["image_bytes"] * max(0, batch_size - step["batch"])
    return step["peak_bytes"] + values + CHECKPOINT_COPIES * step["weight_bytes"]


def judge_step(config: TrainConfig, tasks: list[dict]) -> Row:
    """A step of the model on every machine, and that all workers may have the same kind of device."""
    tried = _of_leaders(tasks, "step")
    if not tried:
        return Row(check="step", state=SKIPPED, found="training's own first step comes at once")
    if broken := _errors(tried, "step"):
        return failed(
            "step",
            broken,
            "this is what training would have met: mend what the message names, or try the other launcher",
            _seconds(tried, "step"),
        )
    seconds = max(task["step"]["own_seconds"] for task in tried)
    without = [task["host"] for task in tried if not task["step"]["gpus"]]
    if 0 < len(without) < len(tried):
        return failed(
            "step",
            f"--device {config.device}: expected the same on every machine, found no GPU on {_some(without)}",
            "use --device cpu, or machines that all have GPUs",
            seconds,
        )
    if crowded := _crowded(config, tasks, tried, seconds):
        return crowded
    first = tried[0]["step"]
    device = "CPU" if without else "GPU"
    return ok(
        "step",
        f"forward and backward with {first['backend']} on the {device} of {_machines(tried)}, loss {first['loss']:.3f}",
        seconds,
    )


def _crowded(config: TrainConfig, tasks: list[dict], tried: list[dict], seconds: float) -> Row | None:
    """Whether a machine may get more workers than it has GPUs; not where Spark gives each task its own. There may be room for
    all of them, but which machines they come to lie on is Spark's to say, also after the loss of one."""
    machines, room, found = [task["machine"] for task in tasks], 0, []
    for task in tried:
        slots, gpus = machines.count(task["machine"]), task["step"]["gpus"]
        room += slots if task["gpus"] or not gpus else min(slots, gpus)
        if gpus and not task["gpus"] and min(config.workers, slots) > gpus:
            found.append(f"{task['host']} has {slots} task slots and {gpus} GPU{'s' if gpus > 1 else ''}")
    if not found:
        return None
    return (failed if room < config.workers else note)(
        "step",
        "; ".join(found[:MOST_NAMED]),
        "have Spark give each task a GPU (spark.task.resource.gpu.amount=1), start no more "
        "slots than GPUs, or use --device cpu",
        seconds,
    )


def judge_gpu_amount(config: TrainConfig, amount: str) -> Row | None:
    """TorchDistributor counts the GPUs of a task as workers: with another number than one it starts too few tasks."""
    if config.launcher != "torch" or config.device == "cpu" or float(amount) in (0, 1):
        return None
    return failed(
        "slots",
        f"spark.task.resource.gpu.amount is {amount}, with which TorchDistributor does not start a task a worker",
        "set it to 1, or use --device cpu",
    )


def judge_slots(wanted: int, slots: int, free: int, *, local: bool, dynamic: bool, seconds: float) -> Row:
    """Spark's barrier stages need all their task slots at once, and a number of executors that does not change."""
    more = "--master local[N]" if local else "--total-executor-cores, or --num-executors and --executor-cores"
    these = "the task slots of this Spark application"
    if dynamic:
        return failed(
            "slots",
            "spark.dynamicAllocation.enabled is true, with which Spark runs no barrier stage",
            f"set --conf spark.dynamicAllocation.enabled=false and the number of cores ({more})",
            seconds,
        )
    if slots < wanted:
        return failed(
            "slots",
            f"--workers: expected at most {slots}, {these}, got {wanted}",
            f"ask for fewer workers, or for more cores ({more})",
            seconds,
        )
    if free < wanted:
        return failed(
            "slots",
            f"--workers: expected at most {free}, {these} that are free, got {wanted}; "
            f"{slots - free} of {slots} are busy with other work",
            "wait for its other jobs to end, or train in an application of its own",
            seconds,
        )
    return ok("slots", f"{wanted} workers, {free} of {slots} task slots free", seconds)


def judge_stage_failure(text: str, seconds: float) -> Row:
    """The row of a barrier stage that did not come to its end, from Spark's exception."""
    versions = re.search(r"different version \((\d+), (\d+)\) than that in driver (\d+\.\d+)", text)
    if versions:
        found = f"python is {versions[1]}.{versions[2]} on an executor and {versions[3]} on the driver"
        return failed("versions", found, "set PYSPARK_PYTHON to the same Python on every machine", seconds)
    if "cancelled" in text:
        return failed(
            "slots",
            f"the workers' tasks did not end within {seconds:.0f} s, or never began",
            "look at the Spark application's page for what holds them",
            seconds,
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("at ", "..."))]
    telling = [line for line in lines if re.match(r"^\w[\w.]*(Error|Exception)\b", line)] or lines or ["no word"]
    return failed(
        "slots", f"the workers' tasks failed: {telling[-1][:500]}", "the executors' logs have the rest", seconds
    )


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
    return (
        " and ".join(names)
        if len(names) < 3
        else ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
