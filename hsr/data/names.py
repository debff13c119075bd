# SPDX-License-Identifier: Apache-2.0
"""File names: when two of them mean the same file, how unknown encodings are read, and how names are shown."""

import unicodedata

SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
# Encodings of names that don't say theirs, in the order of preference. The supersets that Windows writes stand for
# GBK, Shift-JIS and EUC-KR. None is the name as the container's reader took it.
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
# Characters that would break or garble the line that a name is shown in.
_UNSHOWABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def normalized(name: str) -> str:
    """Returns the one spelling of a path inside a data set: `a/b.png`, composed Unicode (NFC).

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
    """Whether a file or folder of this name is the system's business, and not the user's."""
    return part.startswith(".") or part in SYSTEM_FOLDERS


def hidden_path(name: str) -> str | None:
    """Returns the path of the outermost hidden file or folder on the way to a normalized name, or None."""
    if not name.startswith(".") and "/." not in name and not any(folder in name for folder in SYSTEM_FOLDERS):
        return None
    parts = name.split("/")
    first = next((i for i, part in enumerate(parts) if is_hidden(part)), None)
    return None if first is None else "/".join(parts[: first + 1])


def shown(name: str) -> str:
    """Returns a name for a sentence: whatever can't be printed on one line is escaped."""
    if name.isascii() and name.isprintable():
        return name
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSHOWABLE else c for c in name)
