# SPDX-License-Identifier: Apache-2.0
"""The report on an opened data set: what was read, converted and ignored, and why."""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath

from .decoding import Note
from .labels import Labels
from .listing import Listing
from .names import display_name
from .scan import Findings
from .sources import Skip
from .store import FileStore

# Number of suffixes that the report lists of files that are not read.
_MAX_SUFFIXES = 5
# Name of `decoding.BACKGROUND`.
_BACKGROUND_NAME = "white"
# Sentences for one and for several images.
_NOTES = {
    Note.TURNED: ("1 image was turned as its EXIF tag says.", "{} images were turned as their EXIF tags say."),
    Note.COMPOSITED: (
        "1 image with transparency was laid over {background}.",
        "{} images with transparency were laid over {background}.",
    ),
    Note.REDUCED: (
        "1 image of more than 8 bits a channel was reduced to 8.",
        "{} images of more than 8 bits a channel were reduced to 8.",
    ),
    Note.RECOLOURED: (
        "1 image was converted to sRGB from another colour space.",
        "{} images were converted to sRGB from other colour spaces.",
    ),
    Note.PROFILE_UNUSED: (
        "The colour profile of 1 image can't be used, so its colours were taken as they are ({first}).",
        "The colour profiles of {} images can't be used, so their colours were taken as they are (first: {first}).",
    ),
    Note.FIRST_FRAME: (
        "Of 1 file with several frames or pages, the first was taken ({first}).",
        "Of {} files with several frames or pages, the first was taken (first: {first}).",
    ),
}
# Beginnings of sentences for one and for several files.
_SKIPS = {
    Skip.HIDDEN: ("1 hidden or system file or folder was ignored", "{} hidden or system files or folders were ignored"),
    Skip.DANGLING: ("1 link that leads nowhere was ignored", "{} links that lead nowhere were ignored"),
    Skip.LOOP: ("1 link to a folder around it was ignored", "{} links to folders around them were ignored"),
    Skip.SPECIAL: ("1 device, pipe or socket was ignored", "{} devices, pipes or sockets were ignored"),
    Skip.ZIP_LINK: ("1 link inside the zip was ignored", "{} links inside the zip were ignored"),
    Skip.AWAY: (
        "1 dataset.json was ignored, as there are no images in its folder",
        "{} files dataset.json were ignored, as there are no images in their folders",
    ),
}


def make_report(files: FileStore, listing: Listing, labels: Labels | None, findings: Findings) -> tuple[str, ...]:
    """Returns the sentences that apply to this data set."""
    notes = note_sentences(findings.notes, findings.firsts)
    sentences = [*notes, *skip_sentences(listing), *label_sentences(labels)]
    if listing.attribute_file is not None:
        sentences.append(f"{display_name(listing.attribute_file[0])} has attributes of the images, for hsr evaluate.")
    return (_count_sentence(files, findings), *sentences)


def note_sentences(
    notes: Mapping[str, int], firsts: Mapping[str, str], background: str = _BACKGROUND_NAME
) -> list[str]:
    """Returns the sentences on what decoding did to images.

    Args:
        notes: Number of images of each note's value.
        firsts: Name of the first image of each note's value.
        background: Name of the colour behind transparent pixels.
    """
    sentences = []
    for note, forms in _NOTES.items():
        count = notes.get(note.value, 0)
        if count:
            text = forms[count > 1]
            sentences.append(text.format(f"{count:,}", first=firsts[note.value], background=background))
    return sentences


def skip_sentences(listing: Listing) -> list[str]:
    """Returns the sentences on the files that are not used."""
    sentences = []
    skipped: dict[Skip, list[str]] = {skip: [] for skip in Skip}
    for name, skip in listing.skipped:
        skipped[skip].append(name)
    for skip, (one, several) in _SKIPS.items():
        names = sorted(skipped[skip])
        if len(names) == 1:
            sentences.append(f"{one} ({display_name(names[0])}).")
        elif names:
            sentences.append(f"{several.format(f'{len(names):,}')} (first: {display_name(names[0])}).")
    if skipped[Skip.SUFFIX]:
        sentences.append(f"{other_files(listing)} ignored.")
    return sentences


def other_files(listing: Listing) -> str:
    """Returns the beginning of a sentence on the files of unread kinds, "... were"; empty if there are none."""
    counts = Counter(_suffix(name) for name, skip in listing.skipped if skip == Skip.SUFFIX)
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{n:,} {suffix}" for suffix, n in ranked[:_MAX_SUFFIXES]]
    if len(ranked) > _MAX_SUFFIXES:
        kinds.append(f"{sum(n for _, n in ranked[_MAX_SUFFIXES:]):,} others")
    plural = counts.total() > 1
    return f"{counts.total():,} other file{'s' if plural else ''} ({', '.join(kinds)}) {'were' if plural else 'was'}"


def _suffix(name: str) -> str:
    return display_name(PurePosixPath(name).suffix.lower()) or "without a suffix"


def _count_sentence(files: FileStore, findings: Findings) -> str:
    formats = ", ".join(f"{n:,} {name}" for name, n in findings.formats.most_common())
    size = f"{files.resolution}x{files.resolution}"
    return f"{len(files):,} images of {size} pixels ({formats}) were read from {display_name(str(files.source.root))}."


def label_sentences(labels: Labels | None) -> list[str]:
    """Returns the sentences on the labels of a `dataset.json`."""
    if labels is None:
        return []
    file = display_name(labels.file)
    classes = len(set(labels.values))
    sentences = [f"Labels of {classes:,} {'classes' if classes > 1 else 'class'} were read from {file}."]
    if labels.repeated:
        one = labels.repeated == 1
        sentences.append(f"{labels.repeated:,} of its entries {'repeats' if one else 'repeat'} what another one says.")
    if labels.absent:
        one = len(labels.absent) == 1
        first = f"{'' if one else 'first: '}{display_name(labels.absent[0])}"
        sentences.append(
            f"{len(labels.absent):,} of its entries {'is for an image' if one else 'are for images'} that "
            f"{'is' if one else 'are'} not there ({first})."
        )
    return sentences
