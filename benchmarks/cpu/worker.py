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
from dataclasses import asdict, replace
from typing import Any

import torch

from ..case import Case, Size
from ..messages import described, last_line
from ..peers.checkout import UselessPeer
from ..setting import ROOT, cores
from .timing import interleave

MEASURE, PEER_PACKAGE = "measure", "peer package"
# A case that stays set up, to be timed round by round beside another process; and where the library lies.
OPEN, TIME, ORIGIN = "open", "time", "origin"


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


def _case(name: str, tiny: bool, threads: int = 0) -> Case:
    """Returns a case, and sets the number of threads."""
    from .cases import CASES

    # Tiny tensors gain nothing from threads, which wait for each other on a busy machine.
    torch.set_num_threads(threads or (1 if tiny else cores()))
    (found,) = (case for case in CASES if case.name == name)
    return found


def _measure(
    case: str, tiny: bool, threads: int = 0, size: Size | None = None, tiny_size: Size | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Returns the rows of a case, of another size where one is given."""
    from .measure import Options, measure_case

    found = _case(case, tiny, threads)
    found = replace(found, size=found.size | (size or {}), tiny_size=found.tiny_size | (tiny_size or {}))
    return [asdict(row) for row in measure_case(found, Options(tiny=tiny, **options))]


_opened: dict[str, Any] = {}


def _open(case: str, tiny: bool) -> str:
    """Sets a case up on the cpu backend; returns what is wrong with it, empty if nothing is."""
    from ..variants import REFERENCE
    from .measure import Options, faults, variants_of

    found, backend = _case(case, tiny), "cpu"
    variants = variants_of(found, Options(backend, 0, tiny, compiled=False))
    _opened.clear()
    for phase in found.targets:
        _opened[phase] = variants[backend].stage(phase)
        for _ in range(2):
            # Lets allocations settle.
            _opened[phase]()()
    return faults(found, {name: variants[name] for name in (REFERENCE, backend)}).get(backend, "")


def _time(phase: str) -> float:
    """Seconds of one call of a pass of the case that was opened last."""
    (seconds,) = interleave({phase: _opened[phase]}, 1, 0.0)[phase]
    return seconds


def _origin() -> str:
    """The file of the library that is measured."""
    import hsr_kernels

    return str(hsr_kernels.__file__)


def _peer_package(path: str, family: str) -> str:
    from .measure import peer

    return peer(path, family).package


# By name, what a worker answers: functions of the request's arguments.
REQUESTS: Mapping[str, Any] = {
    MEASURE: _measure,
    PEER_PACKAGE: _peer_package,
    OPEN: _open,
    TIME: _time,
    ORIGIN: _origin,
}


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
