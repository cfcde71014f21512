"""The parameters of a notebook, read from its parameters cell without running it."""

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat


@dataclass(frozen=True)
class Parameter:
    """A notebook parameter: its default, and the types its annotation allows (none: the default's own)."""

    default: Any
    types: tuple[str, ...] = ()

    def takes(self, value: object) -> bool:
        """Whether a value fits. An integer is welcome where a float is; a bare default of None takes anything.

        Lists and tuples are one kind, since tuples reach a notebook as lists. What is in them is the notebook's own
        business: `list[int]` takes any list.
        """
        kind = type(value).__name__
        allowed = {name.partition("[")[0] for name in self.types} or {type(self.default).__name__}
        if not self.types and self.default is None:
            return True
        series = {"list", "tuple"}
        return kind in allowed or (kind == "int" and "float" in allowed) or (kind in series and bool(series & allowed))

    def expects(self) -> str:
        """What it takes, in words."""
        return (
            " or ".join(self.types) if self.types else f"{type(self.default).__name__}, as its default {self.default!r}"
        )


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Parameters of a notebook, in the order of its cell tagged "parameters".

    The cell may hold nothing but assignments of literals to names, with or without annotations such as `float | str`
    or `list[int]`, so it is read as a syntax tree and never executed.

    Raises:
        ValueError: not a notebook, no such cell, or a cell with anything else in it.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells
        source = ["".join(cell.source) for cell in cells if "parameters" in cell.metadata.get("tags", ())]
    except OSError:
        raise
    except Exception as error:  # nbformat repairs what it reads and raises almost anything on the way
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{notebook.name} is not a notebook ({type(error).__name__}: {reason[:200]})") from error
    if len(source) != 1:
        raise ValueError(f"{notebook.name} has {len(source)} cells tagged 'parameters'; it needs exactly one")
    found: dict[str, Parameter] = {}
    try:
        statements = ast.parse(source[0]).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the parameters cell of {notebook.name} is not Python ({error})") from error
    for statement in statements:
        annotation: ast.expr | None = None
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                pass
            case _:
                said = ast.get_source_segment(source[0], statement) or ""
                raise ValueError(
                    f"line {statement.lineno} of the parameters cell of {notebook.name} is no plain assignment: "
                    f"{said[:200]!r}"
                )
        try:
            types = () if annotation is None else tuple(_alternatives(annotation))
            found[name] = Parameter(ast.literal_eval(value), types)
        except (ValueError, TypeError, RecursionError, MemoryError) as error:
            raise ValueError(f"parameter {name!r} of {notebook.name} is not a literal value") from error
    return found


def _alternatives(annotation: ast.expr) -> Iterator[str]:
    """The types that an annotation lists with `|`; a `|` inside brackets belongs to its type."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _alternatives(left)
            yield from _alternatives(right)
        case ast.Constant(value=None):
            yield "NoneType"
        case _:
            yield ast.unparse(annotation)


def parse_value(text: str) -> Any:
    """A parameter from the command line: a Python literal where it is one ("[0, 16]", "3", "None"), else the text.

    >>> parse_value("[0, 16]"), parse_value("reviews")
    ([0, 16], 'reviews')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: "{[]: 1}", a list as key
        return text


def with_lists(value: Any) -> Any:
    """The same value with lists for its tuples: papermill would write a tuple into the notebook as a text.

    >>> with_lists({"k": (0, 16), "sources": [("a", 1)]})
    {'k': [0, 16], 'sources': [['a', 1]]}
    """
    if isinstance(value, Mapping):
        return {name: with_lists(part) for name, part in value.items()}
    return [with_lists(part) for part in value] if isinstance(value, list | tuple) else value


def check_parameters(known: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not have, or of another type than it takes.

    Raises:
        ValueError: naming the parameter, what it expects and the nearest known name.
    """
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"the notebook has no parameter {name!r}; {hint}it has {', '.join(known)}")
        if not known[name].takes(value):
            raise ValueError(
                f"parameter {name} = {value!r} is a {type(value).__name__}; it takes {known[name].expects()}"
            )
