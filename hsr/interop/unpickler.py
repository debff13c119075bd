# SPDX-License-Identifier: Apache-2.0
"""Reads pickles of other projects without executing anything in them.

`pickletools` of the standard library splits a pickle into opcodes and decodes their arguments, and runs none of them.
`Unpickler` below runs the opcodes that checkpoints consist of, on Python's own numbers, texts, lists, tuples, sets and
dicts. That is safe for these reasons:

- A global is never imported: its name is looked up in a table that the caller gives, and a name that isn't there ends
  the reading. What a table holds is a function of this package, which checks its arguments.
- Opcodes outside `_STEPS`, among them EXT, INST, OBJ and persistent ids by text, end the reading.
- BUILD changes instances of `Buildable` alone.
- Keys and members are texts and whole numbers, so nothing is compared or hashed at length.
- A file has a `Budget` of opcodes and of bytes that are made of it. A call may name the same large value again and
  again, so constructors look at lengths first, and nothing here or in the callers recurses into values.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

# A published network has some ten thousand opcodes, and a file at most three networks and their optimizers.
MAX_OPCODES = 1_000_000
# Bytes that may be made of a file, relative to its own: G, G_ema and D may share their weights.
MAX_BYTES_SHARE = 3
MAX_SHOWN_CHARACTERS = 80
_ARRAY_GLOBALS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct", "numpy ndarray")

Constructor = Callable[..., Any]


class Refusal(Exception):
    """A file that is not read; the message continues a sentence that begins with the file's name."""


class Budget:
    """What the reading of one file may cost.

    Args:
        file_bytes: Size of the file.
    """

    def __init__(self, file_bytes: int) -> None:
        self._opcodes = MAX_OPCODES
        self._bytes = MAX_BYTES_SHARE * file_bytes

    def spend_opcode(self) -> None:
        """Counts an opcode.

        Raises:
            Refusal: There have been too many.
        """
        self._opcodes -= 1
        if self._opcodes < 0:
            raise Refusal(f"holds a pickle of more than {MAX_OPCODES:,} opcodes, which no checkpoint needs")

    def spend_bytes(self, size: int) -> None:
        """Counts bytes that are made of the file's.

        Raises:
            Refusal: Together they are more than the file can hold.
        """
        self._bytes -= size
        if self._bytes < 0:
            raise Refusal("describes tensors that are larger than the file itself")


@dataclass(frozen=True, eq=False)
class Global:
    """What a pickle names, as an inert stand-in: `construct` makes the value that a call of it stands for."""

    name: str
    construct: Constructor


class Buildable:
    """A value that takes a state by the opcode BUILD."""

    def build(self, state: Any) -> None:
        """Takes the state, after checking it."""
        raise NotImplementedError


class Unpickler:
    """Reads pickles that name nothing but the globals of a table.

    Args:
        constructors: For every allowed "module name", the function that makes the value of a call.
        budget: What the reading may cost.
        persistent: Function from a persistent id to its value; None: there are no persistent ids.
    """

    def __init__(
        self, constructors: Mapping[str, Constructor], budget: Budget, persistent: Constructor | None = None
    ) -> None:
        self._constructors = constructors
        self._budget = budget
        self._persistent = persistent

    def load(self, stream: BinaryIO) -> Any:
        """Returns the value of the pickle at the stream's position, and leaves the stream behind it.

        Raises:
            Refusal: The pickle names or does what no checkpoint does.
            ValueError: The pickle is damaged.
        """
        # One stack, and the heights at which marks were set.
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self._budget.spend_opcode()
                if opcode.name in _LITERALS:
                    self._stack.append(argument)
                elif opcode.name in _STEPS:
                    _STEPS[opcode.name](self, argument)
                else:
                    raise Refusal(f"uses the pickle opcode {opcode.name}, which a checkpoint has no use for")
            return self._stack.pop()
        except (Refusal, MemoryError):
            raise
        except Exception as error:
            raise ValueError("its pickle is damaged or cut off") from error

    def _ignore(self, _: Any) -> None:
        """PROTO, FRAME and STOP hold nothing, and `pickletools` ends at STOP."""

    def _find(self, name: str) -> None:
        if name not in self._constructors:
            raise Refusal(explain_global(name))
        self._stack.append(Global(name, self._constructors[name]))

    def _find_on_stack(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._find(f"{_text(module)} {_text(name)}")

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise Refusal("calls something that is no function of a checkpoint")
        self._stack.append(function.construct(*arguments))

    def _build(self, _: Any) -> None:
        state, value = self._stack.pop(), self._stack[-1]
        if isinstance(value, Buildable):
            value.build(state)
        elif type(value) is not dict or type(state) is not dict:
            # The attributes of an ordered dict say nothing about its items; only such dicts have any.
            raise Refusal("sets the state of a value that has none in a checkpoint")

    def _resolve(self, _: Any) -> None:
        if self._persistent is None:
            raise Refusal("refers to data outside the pickle, which a checkpoint has no use for")
        self._stack.append(self._persistent(self._stack.pop()))

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _items(self) -> list[Any]:
        """Returns what lies above the last mark, and takes it away."""
        height = self._marks.pop()
        items = self._stack[height:]
        del self._stack[height:]
        return items

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._items()))

    def _short_tuple(self, length: int) -> None:
        items = tuple(self._stack[-length:])
        del self._stack[-length:]
        self._stack.append(items)

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("items are appended to what is no list")
        target.extend(items)

    def _add(self, _: Any) -> None:
        items, target = self._items(), self._stack[-1]
        if type(target) is not set:
            raise ValueError("items are added to what is no set")
        target.update(_key(item) for item in items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise ValueError("items are set in what is no dict")
        target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _memoize(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def _recall(self, index: int) -> None:
        self._stack.append(self._memo[index])


def explain_global(name: str) -> str:
    """Returns why a file that names this global is refused."""
    if name.startswith("dnnlib.tflib"):
        return (
            "holds networks of StyleGAN's TensorFlow code, which must be converted with legacy.py of "
            "stylegan2-ada-pytorch first"
        )
    if name in _ARRAY_GLOBALS:
        return "holds NumPy arrays, as alias-free networks of StyleGAN3 do, and hsr's networks are those of StyleGAN2"
    return f"names {shown(name.replace(' ', '.', 1))}, which a checkpoint has no use for"


def shown(text: Any) -> str:
    """Returns a text from a file as a message shows it: on one line, and not too long."""
    if type(text) is not str:
        return type(text).__name__
    line = "".join(letter if letter.isprintable() else "?" for letter in text[: MAX_SHOWN_CHARACTERS + 1])
    return line if len(line) <= MAX_SHOWN_CHARACTERS else f"{line[:MAX_SHOWN_CHARACTERS]}..."


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("a name is no text")
    return value


def _key(value: Any) -> str | int:
    if type(value) not in (str, int):
        raise Refusal("uses a key that is neither a text nor a whole number")
    return value


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_STEPS: dict[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": Unpickler._ignore,
    "FRAME": Unpickler._ignore,
    "STOP": Unpickler._ignore,
    "NONE": lambda self, _: self._stack.append(None),
    "NEWTRUE": lambda self, _: self._stack.append(True),
    "NEWFALSE": lambda self, _: self._stack.append(False),
    "EMPTY_TUPLE": lambda self, _: self._stack.append(()),
    "EMPTY_LIST": lambda self, _: self._stack.append([]),
    "EMPTY_DICT": lambda self, _: self._stack.append({}),
    "EMPTY_SET": lambda self, _: self._stack.append(set()),
    "MARK": Unpickler._mark,
    "TUPLE": Unpickler._tuple,
    "TUPLE1": lambda self, _: self._short_tuple(1),
    "TUPLE2": lambda self, _: self._short_tuple(2),
    "TUPLE3": lambda self, _: self._short_tuple(3),
    "APPEND": lambda self, _: self._append([self._stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._items()),
    "ADDITEMS": Unpickler._add,
    "SETITEM": Unpickler._set_item,
    "SETITEMS": lambda self, _: self._set_items(self._items()),
    "BINPUT": Unpickler._memoize,
    "LONG_BINPUT": Unpickler._memoize,
    "MEMOIZE": Unpickler._memoize,
    "BINGET": Unpickler._recall,
    "LONG_BINGET": Unpickler._recall,
    "GLOBAL": Unpickler._find,
    "STACK_GLOBAL": Unpickler._find_on_stack,
    "REDUCE": Unpickler._call,
    "NEWOBJ": Unpickler._call,
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._resolve,
}
