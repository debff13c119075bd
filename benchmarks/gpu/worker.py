# SPDX-License-Identifier: Apache-2.0
"""The process that works through a stage: `python -m benchmarks.gpu.worker STAGE FOLDER CASE full|tiny`.

Each item is noted in the journal when it begins and when it ends, so that whoever ends this process can see which item
it was working on. An error that a device never recovers from ends the process too; the report starts another at the
next item.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import hsr_kernels
from hsr_kernels._dispatch import request

from .. import device
from ..messages import described
from .files import MEASURED
from .items import Task
from .journal import NAME, Journal
from .stages import ALL_STAGES

# The exit status where the device doesn't answer any more.
LOST = 3
# The stages that measure what the library does once it chooses by what was measured on this machine.
_CHOOSING_STAGES = ("cases", "compile", "profile")
_POLL_SECONDS = 0.5


def main(stage: str, task: Task) -> int:
    """Does what the journal doesn't have of a stage; returns the exit status."""
    journal = Journal(task.folder / NAME)
    journal.refresh()
    table = task.folder / MEASURED
    if stage in _CHOOSING_STAGES and table.exists():
        os.environ[request.MEASURED.variable] = str(table)
        hsr_kernels.reset_choices()
    for item in ALL_STAGES[stage].items(task):
        if journal.ended(stage, item.name):
            continue
        journal.begin(stage, item.name, item.max_seconds, item.labels)
        reason, data = "", {}
        try:
            if device.rehearsing():
                device.rehearse(item.name)
            data = dict(item.run())
        except Exception as error:
            reason = described(error)
        # Before the result is noted: an error that comes late is this item's.
        loss = device.loss() if stage != "tests" else ""
        if loss and not reason:
            reason = f"the device was lost: {loss}"
        if reason:
            journal.fail(stage, item.name, reason)
        else:
            journal.done(stage, item.name, data)
        if loss:
            return LOST
        if reason:
            device.free()
    return 0


def end_with_parent() -> None:
    """Ends this process and what it has started once the report's process is gone, by whatever signal."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    stage, folder, case_filter, size = sys.argv[1:]
    status = main(stage, Task(Path(folder), case_filter, size == "tiny"))
    sys.stdout.flush()
    # A lost device can keep an ordinary exit from ending.
    os._exit(status)
