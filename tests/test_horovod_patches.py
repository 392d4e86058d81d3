"""Each change to Horovod is still needed, and does what it is for. A test that fails here after an upgrade of Horovod
means: remove that change."""

import importlib.util
import queue
import threading
from types import SimpleNamespace

import pytest

horovod = pytest.importorskip("horovod")

import horovod.runner.gloo_run as gloo_run
import horovod.runner.util.threads as threads
import horovod.spark.runner as runner
from horovod.spark.driver.driver_service import SparkDriverService

from cxrflow.launch.horovod_patches import HOROVOD_VERSION, advertise_driver_at, patched_horovod

SECONDS = 20


def in_thread(function):
    """What the function returns in a thread of its own."""
    results = queue.Queue()

    def run():
        try:
            results.put(function())
        except BaseException as error:
            results.put(error)

    threading.Thread(target=run, daemon=True).start()
    return results.get(timeout=SECONDS)


def test_the_version_that_the_changes_are_for():
    assert horovod.__version__ == HOROVOD_VERSION


def test_shutdown_event():
    assert "main thread" in str(in_thread(gloo_run.register_shutdown_event))
    abort = threading.Event()
    with patched_horovod(abort):
        assert in_thread(gloo_run.register_shutdown_event) is abort


def worker_thread_is_daemon():
    found = threads.execute_function_multithreaded(lambda: threading.current_thread().daemon, [[]])
    return found[0]


class Cancelled(Exception):
    pass


def run_spark_thread():
    """Run Horovod's thread for a Spark job that fails as a cancelled one does."""

    def cancelled(*arguments, **options):
        raise Cancelled

    context = SimpleNamespace(setJobGroup=cancelled)
    driver = SimpleNamespace(notify_spark_job_failed=lambda: None)
    thread = runner._make_spark_thread(context, "group", driver, queue.Queue(), None, True, False)
    thread.join(SECONDS)
    assert not thread.is_alive()
    return thread


@pytest.fixture
def printed(monkeypatch):
    """The exceptions that Python would print for threads."""
    found = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: found.append(failed.exc_type))
    return found


def test_threads_that_keep_the_process_alive(printed):
    assert not worker_thread_is_daemon() and not run_spark_thread().daemon
    with patched_horovod(threading.Event()):
        assert worker_thread_is_daemon() and run_spark_thread().daemon


def test_stack_trace_of_a_cancelled_spark_job(printed):
    run_spark_thread()
    assert printed == [Cancelled]
    with patched_horovod(threading.Event()):
        run_spark_thread()
        assert printed == [Cancelled]

        def fail():
            raise KeyError

        other = threading.Thread(target=fail)
        other.start()
        other.join(SECONDS)
    assert printed == [Cancelled, KeyError]


def test_blocks_may_overlap_and_the_last_one_restores_horovod():
    originals = gloo_run.register_shutdown_event, threads.in_thread, runner.in_thread, threading.excepthook
    first, second = threading.Event(), threading.Event()
    one, two = patched_horovod(first), patched_horovod(second)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert gloo_run.register_shutdown_event() is second
    two.__exit__(None, None, None)
    assert (
        gloo_run.register_shutdown_event,
        threads.in_thread,
        runner.in_thread,
        threading.excepthook,
    ) == originals


def stock_driver_service():
    """Horovod's own class, also where an earlier launch in this process has changed the imported one."""
    spec = importlib.util.find_spec("horovod.spark.driver.driver_service")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SparkDriverService


@pytest.fixture
def driver_service():
    """A function that starts a service of a class, with two workers that share an interface."""
    services = []

    def start(service_class):
        services.append(service_class(2, 2, None, (), {}, b"key", None))
        services[-1]._task_addresses_for_tasks = {0: {"ib7": [("10.0.0.1", 1)]}, 1: {"ib7": [("10.0.0.2", 1)]}}
        return services[-1]

    yield start
    for service in services:
        service.shutdown()


def test_horovod_still_needs_the_drivers_address(driver_service):
    """All workers share an interface of a name that the driver does not have."""
    assert "ib7" not in driver_service(stock_driver_service()).addresses()


def test_the_drivers_address(monkeypatch, driver_service):
    monkeypatch.setattr(SparkDriverService, "addresses", SparkDriverService.addresses)
    service = driver_service(SparkDriverService)
    advertise_driver_at("head.example.org")
    assert service.addresses() == {"ib7": [("head.example.org", service.get_port())]}
    service._task_addresses_for_tasks = {}  # before the workers have registered
    assert service.addresses() == {"driver": [("head.example.org", service.get_port())]}
