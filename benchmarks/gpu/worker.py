# SPDX-License-Identifier: Apache-2.0
"""The process that works through a stage: `python -m benchmarks.gpu.worker STAGE FOLDER ONLY full|tiny`.

Each item is noted in the journal as it begins and as it ends, so that whoever ends this process knows what it was at.
An error that a device never recovers from ends the process too; the report starts another at the next item.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from hsr_kernels.modulated_conv2d import routes

from . import device
from .items import Task, items
from .journal import NAME, Journal

LOST = 3  # exit status where the device doesn't answer any more
ROUTES_FILE = "routes.csv"


def main(stage: str, task: Task) -> int:
    """Does what the journal doesn't have of a stage; returns the exit status."""
    journal = Journal(task.folder / NAME)
    journal.refresh()
    table = task.folder / ROUTES_FILE
    if stage != "choices" and table.exists():
        os.environ[routes.ENVIRONMENT] = str(table)  # layers take the routes that were measured
    for item in items(stage, task):
        if journal.ended(stage, item.name):
            continue
        journal.begin(stage, item.name, item.seconds, item.about)
        reason, data = "", {}
        try:
            if device.rehearsing():
                device.rehearse(item.name)
            data = dict(item.run())
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        # Before the result is noted: an error that comes late is this item's.
        lost = device.lost() if stage != "tests" else ""
        if lost and not reason:
            reason = f"the device was lost: {lost}"
        if reason:
            journal.fail(stage, item.name, reason)
        else:
            journal.done(stage, item.name, data)
        if lost:
            return LOST
        if reason:
            device.free()
    return 0


def end_with_parent() -> None:
    """Ends this process and what it has started once the report's process is gone, by whatever signal."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    stage, folder, only, size = sys.argv[1:]
    status = main(stage, Task(Path(folder), only, size == "tiny"))
    sys.stdout.flush()
    os._exit(status)  # a lost device can keep an ordinary exit from ending
