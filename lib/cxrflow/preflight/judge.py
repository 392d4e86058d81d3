"""Pure functions from the facts that ``probe`` collected to the rows of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cxrflow.base.config import TrainConfig, parse_bytes
from cxrflow.base.keras_settings import OWN
from cxrflow.base.manifest import Manifest
from cxrflow.base.secure_versions import find_insecure
from cxrflow.preflight.verdict import SKIPPED, Row, failed, note, ok

MAX_NAMED = 4
"""Machines or problems that a row names."""
FRAMEWORK_BYTES = 700 * 2**20
"""Estimate of a worker's framework, model and libraries if no step measured it."""
CHECKPOINT_COPIES = 9
"""Copies of the weights during a checkpoint: the weights, their moving average and the optimizer's two moments, each as
an array and as bytes to write, and the saved network."""


def judge(config: TrainConfig, manifest: Manifest, driver: dict[str, str], tasks: list[dict]) -> list[Row]:
    """The rows of all checks.

    ``driver``: the driver's versions by package. A task that cannot import cxrflow has ``broken``, the reason, instead
    of facts.
    """
    rows = [judge_versions(driver, tasks), judge_shards(config, manifest)]
    working = [task for task in tasks if "broken" not in task]
    if working:
        rows.append(judge_network(config, working))
    if any("keras" in task for task in working):
        rows.append(judge_keras(working))
    if any("table" in task for task in working):  # the host leader may be the broken one
        rows += [judge_table(working), judge_run(working), judge_memory(config, working), judge_step(config, working)]
    return rows


def judge_versions(driver: dict[str, str], tasks: list[dict]) -> Row:
    """Java, Python and packages are the same everywhere. The driver may lack packages that only workers need."""
    seconds = _seconds(tasks, "versions")
    if broken := _errors(tasks, "versions"):
        return failed(
            "versions",
            broken,
            "use the same environment on every machine: install the cxrflow wheel there, or send it with --py-files "
            "and --archives",
            seconds,
        )
    machines = [("the driver", driver), *((task["host"], task["versions"]) for task in tasks)]
    wrong, common = [], []
    for name in [name for name in tasks[0]["versions"] if name != "seconds"]:
        hosts = _hosts_by_version(name, machines)
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
    for host, versions in machines[1:]:
        for fault in find_insecure({name: text for name, text in versions.items() if isinstance(text, str)}):
            insecure.setdefault(fault, []).append(host)
    if insecure:
        faults = "; ".join(f"{fault} on {_some(hosts)}" for fault, hosts in insecure.items())
        return note("versions", faults, "install newer packages, or train only on files that you trust", seconds)
    return ok("versions", ", ".join(common), seconds)


def _hosts_by_version(name: str, machines: list[tuple[str, dict]]) -> dict[str, list[str]]:
    """The hosts of each version, the most common version first. Unknown versions are left out."""
    hosts: dict[str, list[str]] = {}
    for host, versions in machines:
        if versions.get(name):
            hosts.setdefault(versions[name], []).append(host)
    return dict(sorted(hosts.items(), key=lambda item: -len(item[1])))


def _level(name: str, version: str) -> str:
    """The part of a version that must be equal: 17 of Java 17.0.9, 3.11 of Python 3.11.7, all of others."""
    parts = {"java": 1, "python": 2}.get(name)
    return ".".join(version.removeprefix("1.").split(".")[:parts]) if parts else version


def judge_keras(tasks: list[dict]) -> Row:
    """Whether a machine's keras.json has other settings than those that training uses."""
    seconds = _seconds(tasks, "keras")
    hosts: dict[str, list[str]] = {}
    for task in tasks:
        overridden = task.get("keras", {}).get("overridden", {})
        if overridden:
            hosts.setdefault(", ".join(f"{name} {value}" for name, value in overridden.items()), []).append(
                task["host"]
            )
    own = ", ".join(str(value) for value in OWN.values())
    if not hosts:
        return ok("keras", own, seconds)
    found = "; ".join(f"keras.json says {text} on {_some(where)}" for text, where in hosts.items())
    return note("keras", found, f"nothing: training and scoring use {own} instead", seconds)


def judge_network(config: TrainConfig, tasks: list[dict]) -> Row:
    """Every worker reaches all others and the driver."""
    seconds = _seconds(tasks, "network")
    if broken := _errors(tasks, "network"):
        return failed(
            "network",
            broken,
            "a worker must be able to listen at the address of its executor: check SPARK_LOCAL_IP and "
            "spark.driver.host",
            seconds,
        )
    host = {task["rank"]: task["host"] for task in tasks}
    pairs = _unique(
        f"{task['host']} cannot reach {host[rank]} ({reason})"
        for task in tasks
        for rank, reason in task["network"]["unreached"]
    )
    cut = _unique(
        f"{task['host']} cannot reach the driver at {task['network']['driver']}"
        for task in tasks
        if task["network"]["driver"]
    )
    if pairs or cut:
        return failed(
            "network",
            "; ".join(pairs[:MAX_NAMED] + cut[:MAX_NAMED]),
            "open all ports between these machines, because workers listen on any free port; on a machine with several "
            "networks, set SPARK_LOCAL_IP to the right address",
            seconds,
        )
    if config.launcher in ("horovod", "horovodrunner") and len({task["machine"] for task in tasks}) > 1:
        if lost := [task["host"] for task in tasks if task["network"]["loopback_name"]]:
            return failed(
                "network",
                f"the hostname of {_some(lost)} resolves to 127.x there",
                "Horovod would send that address to the other machines: map the hostname to the machine's own address "
                "in /etc/hosts, or use --launcher torch",
                seconds,
            )
        interfaces: dict[str, list[str]] = {}
        for task in tasks:
            interfaces.setdefault(task["network"]["interface"], []).append(task["host"])
        if len(interfaces) > 1:
            return failed(
                "network",
                "the network interface is "
                + ", ".join(f"{interface} on {_some(hosts)}" for interface, hosts in interfaces.items()),
                "Horovod needs the same name on all machines: rename the interface, or use --launcher torch",
                seconds,
            )
    found = f"{len(tasks)} tasks reach each other and the driver" if len(tasks) > 1 else "one worker, nothing to reach"
    return ok("network", found, seconds)


def judge_table(tasks: list[dict]) -> Row:
    """One task on each machine read the manifest and a shard."""
    read = _of_leaders(tasks, "table")
    seconds = _seconds(read, "table")
    if broken := _errors(read, "table"):
        return failed(
            "table",
            broken,
            "every machine needs read access to the table at the same path or URL: a shared mount, or a file system "
            "of fsspec",
            seconds,
        )
    images = sum(task["table"]["rows"] for task in read)
    return ok("table", f"{_machines(read)} read the manifest and a shard ({images} images)", seconds)


def judge_run(tasks: list[dict]) -> Row:
    """One task on each machine wrote the run directory and saw the files of the driver and of the other machines."""
    wrote = _of_leaders(tasks, "run")
    seconds = _seconds(wrote, "run")
    if broken := _errors(wrote, "run"):
        return failed(
            "run",
            broken,
            "give every machine permission to write the run directory, or choose another folder with --run",
            seconds,
        )
    host = {task["rank"]: task["host"] for task in tasks} | {"driver": "the driver"}
    not_shared = [
        f"{task['host']} does not see the files of {_some(host[rank] for rank in task['run']['unseen'])}"
        for task in wrote
        if task["run"]["unseen"]
    ]
    if not_shared:
        return failed(
            "run",
            "; ".join(not_shared[:MAX_NAMED]),
            "the machines do not share this folder: name a shared one with --run, on a mount or a file system of "
            "fsspec",
            seconds,
        )
    return ok("run", f"{_machines(wrote)} wrote, read and removed a file; all machines saw it", seconds)


def judge_shards(config: TrainConfig, manifest: Manifest) -> Row:
    """Fewer shards or images than workers are allowed, but may not be intended."""
    shards = {split: manifest.of_split(split) for split in ("train", "val")}
    images = sum(shard.rows for shard in shards["train"])
    found = f"{len(shards['train'])} train shards ({images} images), {len(shards['val'])} val shards"
    if images < config.workers * config.batch_size:
        return note(
            "shards",
            f"{found}: less than one global batch of {config.workers} x {config.batch_size} images",
            "use a smaller --batch-size or fewer --workers",
        )
    if len(shards["train"]) < config.workers:
        return note(
            "shards",
            f"{found}: fewer than {config.workers} workers, so several read each shard",
            "ingest with fewer --shard-rows, or use fewer --workers",
        )
    return ok("shards", found)


def judge_memory(config: TrainConfig, tasks: list[dict]) -> Row:
    """The memory that the workers of each machine need, compared with what it, or its container, has available."""
    measured = _of_leaders(tasks, "memory")
    if broken := _errors(measured, "memory"):
        return note("memory", broken, "check by hand that these machines have enough memory")
    feed = parse_bytes("--feed-memory", config.feed_memory)
    steps = [task["step"] for task in tasks if "peak_bytes" in task.get("step", {})]
    model = max((step_bytes(step, config.batch_size) for step in steps), default=FRAMEWORK_BYTES)
    source = "for the model (measured)" if steps else "for the framework (estimated)"
    needs = f"{_size(feed)} for the feed and {_size(model)} {source}"
    machines = [task["machine"] for task in tasks]
    short, room = [], 0
    for task in measured:
        slots = machines.count(task["machine"])
        workers = min(config.workers, slots)
        need, left = workers * (feed + model), task["memory"]["available"]
        room += min(slots, left // (feed + model))
        if need > left:
            short.append(
                f"{task['host']} has {_size(left)} of {_size(task['memory']['total'])} available, and {workers} "
                f"{'worker needs' if workers == 1 else 'workers need'} {_size(need)}"
            )
    if short:  # only a note if all workers fit somewhere, because Spark may distribute them that way
        return (failed if room < config.workers else note)(
            "memory",
            f"{'; '.join(short[:MAX_NAMED])} (each {needs})",
            "lower --feed-memory, --batch-size or --workers, or spread the workers over more machines",
        )
    least = min(task["memory"]["available"] for task in measured)
    return ok("memory", f"a worker needs {needs}; each machine has at least {_size(least)} available")


def step_bytes(step: dict, batch_size: int) -> int:
    """Bytes of a worker besides its feed: the peak of the smoke step, the activations of a larger batch, and a
    checkpoint.

    On a GPU the activations take none of the machine's memory.
    """
    activations = 0 if step["gpus"] else step["image_bytes"] * max(0, batch_size - step["batch"])
    return step["peak_bytes"] + activations + CHECKPOINT_COPIES * step["weight_bytes"]


def judge_step(config: TrainConfig, tasks: list[dict]) -> Row:
    """A training step ran on every machine, and all machines have the same kind of device."""
    tried = _of_leaders(tasks, "step")
    if not tried:
        return Row(check="step", state=SKIPPED, found="training starts at once in this process")
    if broken := _errors(tried, "step"):
        return failed(
            "step",
            broken,
            "training would fail in the same way: fix the cause in the message, or try another launcher",
            _seconds(tried, "step"),
        )
    seconds = max(task["step"]["own_seconds"] for task in tried)
    without = [task["host"] for task in tried if not task["step"]["gpus"]]
    if 0 < len(without) < len(tried):
        return failed(
            "step",
            f"--device {config.device}: expected a GPU on every machine or on none, found none on {_some(without)}",
            "use --device cpu, or machines that all have GPUs",
            seconds,
        )
    if row := _judge_gpus(config, tasks, tried, seconds):
        return row
    first = tried[0]["step"]
    device = "CPU" if without else "GPU"
    return ok(
        "step",
        f"forward and backward with {first['backend']} on the {device} of {_machines(tried)}, loss {first['loss']:.3f}",
        seconds,
    )


def _judge_gpus(config: TrainConfig, tasks: list[dict], tried: list[dict], seconds: float) -> Row | None:
    """A row if a machine may get more workers than it has GPUs, unless Spark assigns GPUs to tasks.

    It is a note if all workers could get a GPU. Spark decides where workers run, also after the loss of one.
    """
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
        "; ".join(found[:MAX_NAMED]),
        "let Spark assign a GPU to each task (spark.task.resource.gpu.amount=1), start no more slots than GPUs, or "
        "use --device cpu",
        seconds,
    )


def judge_gpu_amount(config: TrainConfig, amount: str) -> Row | None:
    """TorchDistributor counts a task's GPUs as workers, so with any number other than one it starts too few tasks."""
    if config.launcher != "torch" or config.device == "cpu" or float(amount) in (0, 1):
        return None
    return failed(
        "slots",
        f"expected spark.task.resource.gpu.amount=1, got {amount}: TorchDistributor would start too few tasks",
        "set it to 1, or use --device cpu",
    )


def judge_slots(workers: int, slots: int, free: int, *, local: bool, dynamic: bool, seconds: float) -> Row:
    """Barrier stages need all their task slots at once, and a fixed number of executors."""
    more = "--master local[N]" if local else "--total-executor-cores, or --num-executors and --executor-cores"
    if dynamic:
        return failed(
            "slots",
            "spark.dynamicAllocation.enabled is true, and Spark then runs no barrier stage",
            f"set --conf spark.dynamicAllocation.enabled=false and a number of cores ({more})",
            seconds,
        )
    if slots < workers:
        return failed(
            "slots",
            f"--workers: expected at most {slots}, the task slots of this Spark application, got {workers}",
            f"use fewer workers, or more cores ({more})",
            seconds,
        )
    if free < workers:
        return failed(
            "slots",
            f"--workers: expected at most {free}, the free task slots of this Spark application, got {workers}; "
            f"{slots - free} of {slots} run other jobs",
            "wait for the other jobs to end, or train in a separate application",
            seconds,
        )
    return ok("slots", f"{workers} workers, {free} of {slots} task slots free", seconds)


def judge_stage_failure(text: str, seconds: float) -> Row:
    """The row of a barrier stage that failed, from the text of Spark's exception."""
    versions = re.search(r"different version \((\d+), (\d+)\) than that in driver (\d+\.\d+)", text)
    if versions:
        found = f"python is {versions[1]}.{versions[2]} on an executor and {versions[3]} on the driver"
        return failed("versions", found, "set PYSPARK_PYTHON to the same Python on every machine", seconds)
    if "cancelled" in text:
        return failed(
            "slots",
            f"the workers' tasks did not start, or did not end within {seconds:.0f} s",
            "find the cause in the Spark UI",
            seconds,
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("at ", "..."))]
    reasons = [line for line in lines if re.match(r"^\w[\w.]*(Error|Exception)\b", line)] or lines or ["no message"]
    return failed("slots", f"the workers' tasks failed: {reasons[-1][:500]}", "see the executors' logs", seconds)


def _errors(tasks: list[dict], check: str) -> str:
    """The errors of a check and where they occurred; empty without errors."""
    hosts: dict[str, list[str]] = {}
    for task in tasks:
        error = task["broken"] if "broken" in task else task.get(check, {}).get("error")
        if error:
            hosts.setdefault(error, []).append(task["host"])
    return "; ".join(f"{error} (on {_some(where)})" for error, where in list(hosts.items())[:MAX_NAMED])


def _of_leaders(tasks: list[dict], check: str) -> list[dict]:
    return [task for task in tasks if task.get(check) is not None]


def _seconds(tasks: list[dict], check: str) -> float:
    return max((task[check]["seconds"] for task in tasks if check in task), default=0.0)


def _machines(tasks: list[dict]) -> str:
    hosts = _unique(task["host"] for task in tasks)
    return hosts[0] if len(hosts) == 1 else f"{len(hosts)} machines"


def _some(names: Iterable[str]) -> str:
    """The distinct names as text, at most MAX_NAMED of them."""
    names = _unique(names)
    return (
        " and ".join(names)
        if len(names) < 3
        else ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
    )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
