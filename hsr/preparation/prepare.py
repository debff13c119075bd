# SPDX-License-Identifier: Apache-2.0
"""The preparation of a data set, from its images to the finished zip or folder."""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image
from rich.console import Console

from ..concurrency import map_in_order
from ..console import track
from ..data.attributes import Attributes
from ..errors import UserError, reason
from .inputs import Input
from .journal import Journal, Record, exclusive, remove_journal
from .packing import image_name, read_preparation, require_writable, write_set
from .picture import Refusal, fitted_size, prepare_picture
from .report import Outcome, describe, judge
from .settings import VERSION, Settings

# Images that wait for each thread, so that none is idle and few are held in memory.
_TASKS_PER_THREAD = 2


@dataclass(frozen=True)
class _Work:
    """What is prepared, by its arguments to `prepare`, and the positions of the images that are."""

    images: Input
    positions: Sequence[int]
    settings: Settings
    workers: int | None
    console: Console


def prepare(images: Input, settings: Settings, target: Path, workers: int | None, console: Console) -> list[str]:
    """Prepares a data set, unless it is there already; goes on where an earlier process was killed.

    Args:
        images: The images.
        settings: How they are prepared.
        target: The zip (.zip) or folder to write.
        workers: Threads that decode and resize; 0: the calling one; None: one for each core.
        console: Where to show the progress.

    Returns:
        Sentences on what was done.

    Raises:
        UserError: An image is refused, none can be read, or the target can't be written.
    """
    positions = _choose(len(images), settings.max_images)
    key = preparation_key(images, settings)
    folder = target.with_name(f"{target.name}.part")
    done = _finished(target, key)
    if done is None:
        require_writable(target, images.path)
        with exclusive(folder, console):
            # Another process may have finished it meanwhile.
            done = _finished(target, key)
            try:
                if done is None:
                    with closing(Journal(folder, key)) as journal:
                        done = _prepare(_Work(images, positions, settings, workers, console), journal, target)
            except Refusal:
                remove_journal(folder)
                raise
            remove_journal(folder)
    return done


def preparation_key(images: Input, settings: Settings) -> str:
    """Returns a hash of all that the prepared images depend on."""
    key = json.dumps([VERSION, PIL.__version__, images.stamp(), dataclasses.asdict(settings)])
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _choose(count: int, maximum: int | None) -> Sequence[int]:
    """Returns the positions of the images that are prepared, ascending: always the same random ones."""
    if maximum is None or maximum >= count:
        return range(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:maximum]).tolist()


def _finished(target: Path, key: str) -> list[str] | None:
    """Returns what is to be said of a finished data set, or None if there is none of this key."""
    done = read_preparation(target)
    return done["report"] if done is not None and done.get("key") == key else None


def _prepare(work: _Work, journal: Journal, target: Path) -> list[str]:
    """Prepares the images that the journal lacks, and writes the data set."""
    images, settings, console = work.images, work.settings, work.console
    total = len(work.positions)
    remaining = work.positions[len(journal.records) :]
    size = settings.size or _common_size(work)
    if journal.records and remaining:
        console.print(f"Going on after {len(journal.records):,} of {total:,} images.")
    with warnings.catch_warnings():
        # The limit on pixels that this warning is about has a sentence of its own.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with closing(_results(work, remaining, size)) as results:
                for record, content in track(results, "Preparing images", len(remaining), console):
                    journal.append(record, content)
        except KeyboardInterrupt:
            done = len(journal.records)
            console.print(f"Stopped after {done:,} of {total:,} images: the same command goes on from there.")
            raise
    outcome = judge(journal.records, images, settings)
    if not any(outcome.kept):
        name, why = outcome.unreadable[0]
        raise Refusal(f"None of the {total:,} images of {images.title} can be read ({name}: {why}).")
    report = describe(outcome, images, settings, size)
    attributes = _attribute_file(work, journal, outcome)
    write_set(target, journal, outcome.kept, _label_file(outcome, work, size, report), attributes)
    return report


def _common_size(work: _Work) -> int:
    """Returns the size of the first image that can be opened, once it is square."""
    for position in work.positions:
        with suppress(Exception), work.images.load(position)[0] as image:
            return fitted_size(image, work.settings)
    # No image can be opened, which their preparation finds as well, and says.
    return 1


def _results(work: _Work, positions: Sequence[int], size: int) -> Generator[tuple[Record, bytes]]:
    """Prepares images, several at a time, and yields their records and PNGs in order."""
    threads = len(os.sched_getaffinity(0)) if work.workers is None else work.workers
    return map_in_order(lambda position: _prepare_image(work, position, size), positions, threads, _TASKS_PER_THREAD)


def _prepare_image(work: _Work, position: int, size: int) -> tuple[Record, bytes]:
    """Returns the record and the PNG of an image; the record of one that can't be read says why."""
    name = f"{work.images.name(position)} in {work.images.title}"
    try:
        image, label = work.images.load(position)
        with image:
            prepared = prepare_picture(image, name, work.settings, size)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{name} doesn't fit in memory: fewer --workers need less.") from error
    except Exception as error:
        if work.settings.strict:
            raise Refusal(f"{name} cannot be read as an image ({_unreadable(error)}).") from error
        return {"index": position, "error": _unreadable(error)}, b""
    record = {"index": position, "label": label, "digest": prepared.digest, "format": prepared.format}
    notes = sorted(note.value for note in prepared.notes)
    return record | {"enlarged": prepared.enlarged, "notes": notes}, prepared.png


def _unreadable(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which might fill the memory"
    return reason(error)


def _attribute_file(work: _Work, journal: Journal, outcome: Outcome) -> Attributes | None:
    """Returns what `attributes.json` holds: the attributes of the images by their new names; None without any."""
    attributes = work.images.attributes()
    if attributes is None:
        return None
    records = [record for record, is_kept in zip(journal.records, outcome.kept, strict=True) if is_kept]
    names = [work.images.name(record["index"]) for record in records]
    return {image_name(i): attributes[name] for i, name in enumerate(names) if name in attributes}


def _label_file(outcome: Outcome, work: _Work, size: int, report: list[str]) -> dict[str, Any]:
    """Returns what `dataset.json` holds."""
    contents: dict[str, Any] = {"labels": None}
    if outcome.labels is not None:
        contents["labels"] = [[image_name(index), label] for index, label in enumerate(outcome.labels)]
        if work.images.class_names is not None:
            contents["class_names"] = list(work.images.class_names)
    contents["preparation"] = {
        "key": preparation_key(work.images, work.settings),
        "source": work.images.title,
        "settings": dataclasses.asdict(work.settings) | {"size": size},
        "images": sum(outcome.kept),
        "enlarged": len(outcome.enlarged),
        "unreadable": outcome.unreadable,
        "duplicates": outcome.duplicates,
        "report": report,
    }
    return contents
