"""Whether a local holder is still at work."""

from __future__ import annotations

import os
import subprocess
import sys

from kubegym.rollout import job_holder, local_holder
from kubegym.rollout.head import Holder
from kubegym.rollout.holder import is_gone


def test_a_holder_is_at_work_for_as_long_as_its_block() -> None:
    with local_holder() as first, local_holder() as second:
        assert first.id != second.id
        assert not is_gone(first)
        assert not is_gone(second)
    assert is_gone(first)


def test_a_process_that_ended_is_gone_and_one_that_runs_is_not() -> None:
    script = """
import sys
from kubegym.rollout import local_holder
with local_holder() as holder:
    print(holder.id, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    holder = Holder(process.stdout.readline().strip(), "worker")
    assert not is_gone(holder)
    process.communicate()
    assert is_gone(holder)


def test_a_reused_pid_and_an_earlier_boot_are_gone() -> None:
    with local_holder() as mine:
        kind, host, boot, pid, started, number = mine.id.split("/")
    assert is_gone(Holder("/".join((kind, host, boot, str(os.getpid()), "1", number)), "worker"))
    assert is_gone(Holder("/".join((kind, host, "another-boot", pid, started, number)), "worker"))


def test_of_another_machine_or_a_job_nothing_is_known() -> None:
    with local_holder() as mine:
        kind, _, *rest = mine.id.split("/")
    assert not is_gone(Holder("/".join((kind, "elsewhere", *rest)), "worker"))
    assert not is_gone(job_holder("uid", "pod"))
