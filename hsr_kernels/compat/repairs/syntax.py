# SPDX-License-Identifier: Apache-2.0
"""What a Python file's syntax tree says about names."""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


def dotted(node: ast.AST, aliases: Mapping[str, str]) -> str:
    """Returns a name with dots, "numpy.float"; an empty string for any other expression.

    Args:
        node: Of a syntax tree.
        aliases: What names stand for: {"np": "numpy"}.
    """
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (start := dotted(node.value, aliases)):
        return f"{start}.{node.attr}"
    return ""


def imports(node: ast.AST) -> list[str]:
    """Returns the modules that a statement imports, and with dots the names that it takes from one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*")]
    return []


def keywords_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Returns the names and values that a call, a dictionary or an assignment has."""
    if isinstance(node, ast.Call):
        yield from ((keyword.arg or "", keyword.value) for keyword in node.keywords)
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, (ast.Name, ast.Attribute)):
                yield dotted(target, {}).rpartition(".")[2], node.value
            elif isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value), node.value


def is_of(package: str, functions: Sequence[str], name: str) -> bool:
    """Whether a dotted name is that of one of some functions of a package."""
    parts = name.split(".")
    return parts[0] == package and parts[-1] in functions


def calls_with(package: str, functions: Sequence[str], argument: str) -> Callable[[ast.AST, Mapping[str, str]], bool]:
    """Returns what tells whether a node calls one of some functions of a package with an argument."""
    return lambda node, aliases: (
        isinstance(node, ast.Call)
        and is_of(package, functions, dotted(node.func, aliases))
        and any(keyword.arg == argument for keyword in node.keywords)
    )


def aliases_of(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Returns what the names that a file's imports bind stand for: {"np": "numpy", "F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found
