# SPDX-License-Identifier: Apache-2.0
"""The record of what was done on GPUs: lines of JSON, only ever added to, by the report's process and its workers.

What was found on one machine with one version doesn't count on another: each call of the report first names its own.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "journal.jsonl"
BEGAN, DONE, FAILED = "began", "done", "failed"


@dataclass(frozen=True)
class Entry:
    """What became of an item.

    Attributes:
        state: BEGAN, DONE or FAILED.
        max_seconds: Seconds that it may take; None where no process watches it.
        labels: What the item is, for tables.
        data: What it found.
        reason: Why it failed.
    """

    state: str
    max_seconds: float | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


Entries = dict[tuple[str, str], Entry]


class Journal:
    """Adds to a journal, and returns its entries of the machine that was named last.

    Args:
        path: The file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machine: dict[str, str] = {}
        self._entries_by_machine: dict[str, Entries] = {}
        self._bytes_read = 0

    @property
    def entries(self) -> Entries:
        """(stage, item) -> what became of it, in the order in which items first began."""
        return self._entries_by_machine.setdefault(json.dumps(self.machine, sort_keys=True), {})

    def of(self, stage: str) -> dict[str, Entry]:
        """Item -> what became of it."""
        return {item: entry for (owner, item), entry in self.entries.items() if owner == stage}

    def ended(self, stage: str, item: str) -> bool:
        """Whether an item was done or failed."""
        entry = self.entries.get((stage, item))
        return entry is not None and entry.state != BEGAN

    def refresh(self, end: int | None = None) -> bool:
        """Reads what was added since, or what of it lies before byte `end`; returns whether that is anything.

        A line without an end, as a killed process leaves it, isn't taken.
        """
        if not self.path.exists():
            return False
        with self.path.open("rb") as file:
            file.seek(self._bytes_read)
            added = file.read(-1 if end is None else max(end - self._bytes_read, 0))
        lines = added[: added.rfind(b"\n") + 1]
        self._bytes_read += len(lines)
        for line in lines.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                self._take(record)
        return bool(lines)

    def _take(self, record: dict[str, Any]) -> None:
        if "machine" in record:
            self.machine = record["machine"]
        elif "again" in record:
            for stage, item in list(self.entries):
                if stage in record["again"] and record["only"] in item:
                    del self.entries[stage, item]
        else:
            key = record["stage"], record["item"]
            before = self.entries.get(key)
            names = ("max_seconds", "labels", "data", "reason")
            given: dict[str, Any] = {name: record[name] for name in names if name in record}
            kept: dict[str, Any] = {"max_seconds": before.max_seconds, "labels": before.labels} if before else {}
            self.entries[key] = Entry(record["state"], **(kept | given))

    def name(self, machine: dict[str, str]) -> None:
        """Names the machine that all that is added from now on comes from."""
        self._mend()
        self._add({"machine": machine})

    def forget(self, stages: list[str], case_filter: str) -> None:
        """Lets items of these stages whose name contains `case_filter` count as not done."""
        self._add({"again": stages, "only": case_filter})

    def begin(
        self, stage: str, item: str, max_seconds: float | None = None, labels: Mapping[str, Any] | None = None
    ) -> None:
        """Notes that an item begins."""
        self._add({"stage": stage, "item": item, "state": BEGAN, "max_seconds": max_seconds, "labels": labels or {}})

    def done(self, stage: str, item: str, data: Mapping[str, Any]) -> None:
        """Notes what an item found."""
        self._add({"stage": stage, "item": item, "state": DONE, "data": data})

    def fail(self, stage: str, item: str, reason: str) -> None:
        """Notes why an item failed."""
        self._add({"stage": stage, "item": item, "state": FAILED, "reason": reason})

    def _mend(self) -> None:
        """Ends a line that a killed process left without an end."""
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size:
            self._write(b"\n")

    def _add(self, record: dict[str, Any]) -> None:
        self._write(json.dumps(record).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        """In one system call, so that lines of several processes don't mix."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line)
        finally:
            os.close(file)
