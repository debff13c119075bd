# SPDX-License-Identifier: Apache-2.0
"""What `torchrun` tells a process of its job, in environment variables; readable without PyTorch."""

import os
import socket


def process_index() -> int:
    """Returns this process's rank in its job: 0 outside of `torchrun`."""
    return int(os.environ.get("RANK", 0))


def local_process_index() -> int:
    """Returns this process's rank among those of its job on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def process_count() -> int:
    """Returns the number of processes of this process's job."""
    return int(os.environ.get("WORLD_SIZE", 1))


def job_name() -> str | None:
    """Returns a name of this process's job that stays the same when `torchrun` restarts it; None outside of one."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    # Without a name of the user's, the agent that restarts the processes tells jobs of a machine apart.
    return run_id if run_id != "none" else f"{socket.gethostname()}-{os.getppid()}"


def restart_count() -> int:
    """Returns how many times `torchrun` has restarted this process's job."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
