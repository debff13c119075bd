# SPDX-License-Identifier: Apache-2.0
"""A process of its own that measures cases: `python -m benchmarks.cpu.worker` answers requests, a line of JSON each.

So memory that one case leaves behind is no other's, and a case that crashes costs its own rows. What the process prints
beside the answers goes to its error stream.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..messages import described, last_line
from ..peers.checkout import UselessPeer
from ..setting import ROOT, cores

MEASURE, PEER_PACKAGE = "measure", "peer package"


class Worker:
    """Such a process, from outside; a context manager that ends it."""

    def __init__(self, path: Sequence[str] = ()) -> None:
        """Starts it.

        Args:
            path: Folders whose packages come before those of this checkout.
        """
        # -P: else this checkout, as the folder that it is started in, would come first.
        command = [sys.executable, "-P", "-m", "benchmarks.cpu.worker"]
        paths = [*path, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        # A file, as a pipe that nobody reads from would fill.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=self._errors, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, request: str, **arguments: Any) -> Any:
        """Returns the answer to a request, one of `requests`.

        Raises:
            RuntimeError: It failed; the message says why.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"request": request} | arguments) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"the process that measures ended: {last_line(self._errors.read())}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


def _measure(case: str, **options: Any) -> list[dict[str, Any]]:
    from .cases import CASES
    from .measure import Options, measure_case

    # Tiny tensors gain nothing from threads, which wait for each other on a busy machine.
    torch.set_num_threads(1 if options["tiny"] else cores())
    (found,) = (one for one in CASES if one.name == case)
    return [asdict(row) for row in measure_case(found, Options(**options))]


def _peer_package(path: str, family: str) -> str:
    from .measure import peer

    return peer(path, family).package


# By name, what a worker answers: functions of the request's arguments.
REQUESTS: Mapping[str, Any] = {MEASURE: _measure, PEER_PACKAGE: _peer_package}


def main() -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    # What libraries print is no answer.
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = {"result": REQUESTS[arguments.pop("request")](**arguments)}
        except Exception as error:
            answer = {"error": str(error) if isinstance(error, UselessPeer) else described(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
