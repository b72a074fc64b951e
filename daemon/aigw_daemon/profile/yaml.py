"""Reads one YAML document into plain data, and keeps the line and column of every key and value.

PyYAML's parser gives the events; what they mean is decided here, by YAML 1.2's core schema rather than by PyYAML's
1.1: ``on``, ``off``, ``yes`` and ``no`` are words, ``1:30`` is text, ``0o17`` is octal. Whatever a profile has no
use for is refused: tags, merge keys, keys that aren't strings, several documents. Every size is bounded, so a hostile
file fails fast instead of filling the memory.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from aigw_daemon.profile.errors import ProfileError, ProfileProblem, dotted, shown

MAX_BYTES = 256 * 1024
"""Of a profile file. PyYAML reads about 100 KB a second, and a real profile has a few."""
MAX_DEPTH = 16
MAX_NODES = 20_000
"""Values after aliases are expanded: the bound on anchor bombs."""

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file. Both count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """Plain data (dicts, tuples, scalars), and where each value and each key of it stands."""

    file: str
    data: Any = None
    values: dict[Path, Mark] = field(default_factory=dict)
    keys: dict[Path, Mark] = field(default_factory=dict)
    problems: list[ProfileProblem] = field(default_factory=list)
    """What could be read past, such as a duplicate key: reported together with what later checks find."""

    def place(self, path: Path) -> Mark:
        """Where a path stands: its key, else its value, else the nearest thing around it."""
        while path:
            mark = self.keys.get(path) or self.values.get(path)
            if mark:
                return mark
            path = path[:-1]
        return self.values.get((), Mark(1, 1))

    def report(self, mark: Mark, path: Path, rule: str, value: str | None = None, *, hint: str = "") -> None:
        """Note a problem that doesn't stop the reading."""
        self.problems.append(
            ProfileProblem(self.file, mark.line, mark.column, dotted(path), rule, value=value, hint=hint)
        )


def read(content: bytes, file: str) -> Document:
    """Read the one document of a file.

    Raises ProfileError when it isn't YAML, or goes past a limit; problems that can be read past are in the result.
    """
    document = Document(file)
    text = _decode(document, content)
    try:
        # Not the loaders that PyYAML advises against: only its parser runs, and builds no objects.
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        root = _Reader(document, events).root()
        _Plain(document).fill(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        _fail(document, where, (), f"not valid YAML: {_reason(error)}", hint=_syntax_hint(error))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        _fail(document, where, (), "control characters are not allowed in YAML", value=shown(chr(int(error.character))))
    return document


@dataclass(slots=True, eq=False)
class _Node:
    mark: Mark
    value: Any = None
    """A scalar, a list of nodes, or a dict from keys to (mark of the key, node)."""
    open: bool = False


class _Reader:
    """From events to nodes; an alias is the very node of its anchor."""

    def __init__(self, document: Document, events: Iterator[Any]) -> None:
        self._document = document
        self._events = events
        self._anchors: dict[str, _Node] = {}

    def root(self) -> _Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return _Node(Mark(1, 1))
        node = self._node(next(self._events), ())
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            _fail(self._document, _mark(after), (), "a profile is one YAML document, but a second one starts here")
        return node

    def _node(self, event: Any, path: Path) -> _Node:
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event, mark, path)
        if len(path) > MAX_DEPTH:
            _fail(self._document, mark, path[:3], f"a profile is at most {MAX_DEPTH} levels deep")
        node = _Node(mark, open=True)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if event.tag is not None:
            self._document.report(
                mark, path, "YAML tags are not allowed in a profile", shown(event.tag), hint="write the plain value"
            )
        if isinstance(event, yaml.ScalarEvent):
            node.value = self._scalar(event, mark, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = self._sequence(path)
        else:
            node.value = self._mapping(path)
        node.open = False
        return node

    def _aliased(self, event: Any, mark: Mark, path: Path) -> _Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            _fail(self._document, mark, path, "an alias needs an anchor above it", value=shown(f"*{event.anchor}"))
        if node.open:
            _fail(self._document, mark, path, "an anchor can't contain itself", value=shown(f"*{event.anchor}"))
        return node

    def _scalar(self, event: Any, mark: Mark, path: Path) -> object:
        if not event.implicit[0]:
            return event.value
        try:
            return resolve(event.value)
        except ValueError as error:
            self._document.report(mark, path, str(error), shown(event.value), hint="quote it if it is text")
            return event.value

    def _sequence(self, path: Path) -> list[_Node]:
        items: list[_Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, tuple[Mark, _Node]]:
        entries: dict[str, tuple[Mark, _Node]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, (*path, "?"))
            name = key.value if isinstance(key.value, str) else shown(key.value)
            value = self._node(next(self._events), (*path, name))
            if self._usable(event, key, name, path, entries):
                entries[name] = (key.mark, value)
        return entries

    def _usable(self, event: Any, key: _Node, name: str, path: Path, entries: dict[str, tuple[Mark, _Node]]) -> bool:
        report = self._document.report
        mark = _mark(event)
        if not isinstance(key.value, str):
            hint = f"quote it: {shown(event.value)}" if isinstance(event, yaml.ScalarEvent) else ""
            report(mark, path, "keys are strings", shown(key.value), hint=hint)
            return False
        if name == "<<" and event.implicit[0]:
            report(mark, path, "merge keys (<<) are not part of YAML 1.2", hint="write the keys out")
            return False
        if name in entries:
            first = entries[name][0]
            report(mark, (*path, name), f"this key is already there in line {first.line}", hint="remove one of them")
            return False
        return True


class _Plain:
    """From nodes to plain data with a place for every path, aliases expanded within the bounds."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0

    def fill(self, root: _Node) -> None:
        self._document.data = self._plain(root, ())

    def _plain(self, node: _Node, path: Path) -> object:
        self._count += 1
        if self._count > MAX_NODES:
            rule = f"a profile has at most {MAX_NODES} values, aliases expanded"
            _fail(self._document, node.mark, path[:3], rule)
        if len(path) > MAX_DEPTH:
            _fail(self._document, node.mark, path[:3], f"a profile is at most {MAX_DEPTH} levels deep")
        self._document.values[path] = node.mark
        if isinstance(node.value, list):
            # Tuples, so that what is validated from them can't be changed afterwards.
            return tuple(self._plain(item, (*path, index)) for index, item in enumerate(node.value))
        if isinstance(node.value, dict):
            return {key: self._entry(mark, item, (*path, key)) for key, (mark, item) in node.value.items()}
        return node.value

    def _entry(self, key_mark: Mark, node: _Node, path: Path) -> object:
        self._document.keys[path] = key_mark
        return self._plain(node, path)


_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NOT_A_NUMBER = {".nan", ".NaN", ".NAN"}
# Python's own conversion is quadratic, and refuses more than 4,300 digits.
_LONGEST_NUMBER = 40


def resolve(text: str) -> object:
    """What an unquoted scalar means: YAML 1.2's core schema (chapter 10.3.2), and nothing else.

    Raises ValueError for a number that is longer than any profile needs.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text in _NOT_A_NUMBER:
        return float("nan")
    if match := _INFINITY.fullmatch(text):
        return float(f"{match[1]}inf")
    return _number(text)


def _number(text: str) -> object:
    kinds = ((_DECIMAL, int), (_OCTAL, _prefixed), (_HEXADECIMAL, _prefixed), (_FLOAT, float))
    for pattern, convert in kinds:
        if pattern.fullmatch(text):
            if len(text) > _LONGEST_NUMBER:
                raise ValueError(f"a number has at most {_LONGEST_NUMBER} digits")
            return convert(text)
    return text


def _prefixed(text: str) -> int:
    return int(text, base=0)


def _decode(document: Document, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        rule = f"a profile is at most {MAX_BYTES // 1024} KiB"
        _fail(document, Mark(1, 1), (), rule, value=f"{len(content) // 1024} KiB or more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        where = Mark(before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
        value = f"the byte 0x{content[error.start]:02x}"
        _fail(document, where, (), "a profile is UTF-8 text", value=value, hint="save it as UTF-8")


def _fail(
    document: Document, mark: Mark, path: Path, rule: str, *, value: str | None = None, hint: str = ""
) -> NoReturn:
    document.report(mark, path, rule, value, hint=hint)
    raise ProfileError(document.problems) from None


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _reason(error: yaml.MarkedYAMLError) -> str:
    context = f"{error.context}: " if error.context else ""
    return f"{context}{error.problem}"


def _syntax_hint(error: yaml.MarkedYAMLError) -> str:
    if "'\\t'" in str(error.problem):
        return "indent with spaces: YAML does not allow tabs"
    if "cannot start any token" in str(error.problem) or "mapping values are not allowed" in str(error.problem):
        return "quote text that starts with a special character or holds a colon and a space"
    return ""
