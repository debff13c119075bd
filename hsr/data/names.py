# SPDX-License-Identifier: Apache-2.0
"""File names: their normal form, their encodings, and their spelling in messages."""

import unicodedata

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
# Encodings of names that don't state theirs, in the order of preference. The supersets that Windows writes stand for
# GBK, Shift-JIS and EUC-KR. None is the name as the container's reader decoded it.
ENCODINGS = (
    "utf-8",
    None,
    "gb18030",
    "cp932",
    "shift_jis",
    "cp949",
    "big5",
    "euc_jp",
    "cp1251",
    "cp866",
    "koi8_r",
    "cp1252",
    "latin-1",
    "cp850",
    "cp852",
    "cp1250",
)
# Unicode categories of characters that would break or garble a line.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def normalized(name: str) -> str:
    """Returns the normal form of a path inside a data set: `a/b.png`, in composed Unicode (NFC).

    Backslashes are separators, and empty, `.` and `..` parts are resolved.
    """
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def is_hidden(part: str) -> bool:
    """Returns whether a file or folder of this name belongs to the system and not to the user."""
    return part.startswith(".") or part in SYSTEM_FOLDERS


def hidden_path(name: str) -> str | None:
    """Returns the path of the outermost hidden file or folder on the way to a normalized name, or None."""
    if not name.startswith(".") and "/." not in name and not any(folder in name for folder in SYSTEM_FOLDERS):
        return None
    parts = name.split("/")
    depth = next((i for i, part in enumerate(parts) if is_hidden(part)), None)
    return None if depth is None else "/".join(parts[: depth + 1])


def display_name(name: str) -> str:
    """Returns a name as messages show it: whatever can't be printed on one line is escaped."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(_escape(c) if unicodedata.category(c) in _ESCAPED_CATEGORIES else c for c in name)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
