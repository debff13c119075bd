# SPDX-License-Identifier: Apache-2.0
"""Published files of weights: those in the folder of PyTorch's hub, and their download into it.

Whatever makes a file unavailable ends in a `UserError` within seconds.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import torch

from ..errors import UserError, reason

# Time for a server to answer at all; a download that has begun has no limit.
PROBE_SECONDS = 8.0


def hub_file(url: str) -> Path:
    """Returns where PyTorch's hub keeps the file of a URL, whether or not it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def fetch_file(url: str, network: str, advice: str) -> Path:
    """Returns the file of a URL from the folder of PyTorch's hub, where it is downloaded to if it is missing.

    Args:
        url: Where the file is published, with its name at the end.
        network: Whose weights these are, for the message.
        advice: What to do without a download, for the message.

    Raises:
        UserError: It isn't there and cannot be downloaded.
    """
    path = hub_file(url)
    if path.is_file():
        return path
    try:
        run_within(PROBE_SECONDS, lambda: urlopen(url, timeout=PROBE_SECONDS / 2).close())
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name may end with the start of the file's SHA-256, which shows a damaged download.
        digest = re.search(r"-([0-9a-f]{8,})\.\w+$", path.name)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest[1] if digest else None)
    except Exception as error:
        # Servers, proxies and disks fail in any of a dozen ways.
        raise UserError(
            f"The encoder {network} needs {path.name}, which is not in {path.parent} and cannot be downloaded from "
            f"{url} ({reason(error)}): {advice}."
        ) from error
    return path


def run_within(seconds: float, call: Callable[[], object]) -> None:
    """Runs `call`, but waits no longer than `seconds`: name servers and clients retry by themselves for minutes."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    if failures:
        raise failures[0]
