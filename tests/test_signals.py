"""Ctrl-C and SIGTERM as Python and Java receive them."""

import signal

import pytest

from cxrflow.base.errors import Stopped
from cxrflow.distributed import signals


class JavaSignal:
    """In place of ``sun.misc.Signal``."""

    def getNumber(self):
        return signal.SIGINT


def test_one_ctrl_c_reaches_python_and_java_and_the_second_raises_in_the_main_thread_once():
    java = signals._JavaSignalHandler()
    with signals.catch_stop_signals():
        signal.raise_signal(signal.SIGINT)
        java.handle(JavaSignal())
        assert signals.stop_requested() and not signals.stop_repeated()
        with pytest.raises(Stopped, match="stopped at once"):
            signal.raise_signal(signal.SIGINT)
        java.handle(JavaSignal())  # while the main thread cleans up


def test_java_alone_receives_the_signals_of_a_scheduler():
    java = signals._JavaSignalHandler()
    with signals.catch_stop_signals():
        java.handle(JavaSignal())
        with pytest.raises(Stopped, match="stopped at once"):
            java.handle(JavaSignal())
