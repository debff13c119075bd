# SPDX-License-Identifier: Apache-2.0
"""What a preparation came to: which images are kept, and sentences on it."""

from collections import Counter
from dataclasses import dataclass, field

from ..data.report import note_sentences
from .inputs import Input
from .journal import Record
from .settings import REFUSE, Settings

# Number of images that a sentence names; dataset.json names all.
_MAX_NAMES = 3


@dataclass
class Outcome:
    """What became of the images.

    Attributes:
        kept: Whether each image belongs to the set.
        labels: Class of each image that does; None without any.
        unreadable: Name of each image that can't be read, and the reason.
        duplicates: Name of each image that equals an earlier one, and that one's name.
        num_unlike_labels: Number of duplicates of another class than the earlier image.
        num_unlabelled: Number of images without a class in a set with classes.
        enlarged: Names of the images that were enlarged.
        formats: Number of images of each format.
        notes: Number of images of each note's value.
        firsts: Name of the first image of each note's value.
    """

    kept: list[bool] = field(default_factory=list)
    labels: list[int] | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    num_unlike_labels: int = 0
    num_unlabelled: int = 0
    enlarged: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)


def judge(records: list[Record], images: Input, settings: Settings) -> Outcome:
    """Returns what becomes of the images of a journal."""
    outcome = Outcome()
    originals: dict[str, Record] = {}
    labels: list[int | None] = []
    for record in records:
        name = images.name(record["index"])
        if "error" in record:
            outcome.unreadable.append((name, record["error"]))
            outcome.kept.append(False)
            continue
        original = originals.setdefault(record["digest"], record)
        is_kept = original is record or settings.duplicates == "keep"
        outcome.kept.append(is_kept)
        if original is not record:
            outcome.duplicates.append((name, images.name(original["index"])))
            outcome.num_unlike_labels += original["label"] != record["label"]
        if not is_kept:
            continue
        labels.append(record["label"])
        outcome.formats[record["format"]] += 1
        if record["enlarged"]:
            outcome.enlarged.append(name)
        for note in record["notes"]:
            outcome.notes[note] += 1
            outcome.firsts.setdefault(note, name)
    present = [label for label in labels if label is not None]
    if present and len(present) == len(labels):
        outcome.labels = present
    elif present:
        outcome.num_unlabelled = len(labels) - len(present)
    return outcome


def describe(outcome: Outcome, images: Input, settings: Settings, size: int) -> list[str]:
    """Returns the sentences on a preparation to images of `size` pixels a side."""
    count = sum(outcome.kept)
    fit = "crop" if settings.fit == "crop" else f"pad with {settings.padding}"
    formats = ", ".join(f"{n:,} {name}" for name, n in outcome.formats.most_common())
    num_classes = len(set(outcome.labels or ()))
    classes = f" in {num_classes:,} {'class' if num_classes == 1 else 'classes'}" if num_classes else ""
    sentences = [
        f"{_count(count, 'image')} ({formats}) of {images.title}{classes} {_were(count)} brought to "
        f"{size}x{size} pixels (fit: {fit}, filter: {settings.filter})."
    ]
    background = "" if settings.transparency == REFUSE else settings.transparency
    sentences += note_sentences(outcome.notes, outcome.firsts, background)
    sentences += images.sentences
    if outcome.enlarged:
        n = len(outcome.enlarged)
        names = _names(outcome.enlarged)
        sentences.append(f"{_count(n, 'image')} {_were(n)} smaller than that and {_were(n)} enlarged ({names}).")
    if outcome.unreadable:
        n = len(outcome.unreadable)
        names = _names([f"{name}: {reason}" for name, reason in outcome.unreadable])
        sentences.append(f"{_count(n, 'file')} can't be read and {_were(n)} left out ({names}).")
    if outcome.duplicates:
        sentences += _duplicate_sentences(outcome, settings)
    if outcome.num_unlabelled:
        sentences.append(f"All labels were left out, as {_count(outcome.num_unlabelled, 'image')} of the set had none.")
    return sentences


def _duplicate_sentences(outcome: Outcome, settings: Settings) -> list[str]:
    n = len(outcome.duplicates)
    fate = f"{_were(n)} left out" if settings.duplicates == "drop" else f"{_were(n)} kept"
    names = _names([f"{name} equals {original}" for name, original in outcome.duplicates])
    sentences = [f"{_count(n, 'image')} {'equals' if n == 1 else 'equal'} an earlier one and {fate} ({names})."]
    if outcome.num_unlike_labels:
        unlike = outcome.num_unlike_labels
        sentences.append(f"{unlike:,} of them {'has' if unlike == 1 else 'have'} another label than the earlier one.")
    return sentences


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _names(names: list[str]) -> str:
    return "; ".join(names[:_MAX_NAMES]) + (
        f"; and {len(names) - _MAX_NAMES:,} more" if len(names) > _MAX_NAMES else ""
    )
