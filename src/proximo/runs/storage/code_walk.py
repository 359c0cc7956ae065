"""Parts of a piece of code: instructions, what it closes over, reads and calls, and the modules it needs."""

import dataclasses
import dis
import functools
import hashlib
import sys
import weakref
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from proximo.errors import UserError
from proximo.runs.storage.module_sources import PLAIN, Program, is_own, own_names, own_source, program_in

STANDS_FOR = "_proximo_stands_for"
"""The attribute of a method that is ours for a while: the class's own that it stands for, None for an inherited one."""
_WRAPPED = ("env", "_spec", "spec")  # of Gymnasium's wrappers and environments
_MOST = 1000  # containers and objects that are known as they were first seen
_DEPTH = 60  # objects within objects, beyond which only their classes count
_FIRST: dict[int, tuple[Any, str, bool]] = {}
"""By the id of a container or an object: it, or a weak reference to it; its digest as it was first seen; and whether
code of the user's own was in it."""
_FIRST_NAMED: dict[tuple[int, str], tuple[Any, str]] = {}
"""By the id of a function's namespace or a class, and a name in it that the user's own code keeps a state in."""
_IMPORTED: dict[str, tuple[Any, Program]] = {}
"""By module, its specification, of which a reload makes another, and the program that its file held when first seen."""


class CodeWalk:
    """Goes through a value and all that it consists of; each object counts once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: set[int] = set()
        self._kept: list[Any] = []  # an object that dies would leave its id to another
        self._read: set[str] = set()
        """Names of the modules whose source was read."""
        self._depth = 0
        self._walking: set[int] = set()
        """Ids of what is being walked through: cycles end there."""
        self._codes: dict[int, tuple[str, bool]] = {}
        """Digests of functions and classes, by their ids."""
        self.own = False
        """True if anything of it is the user's own code."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits; "" where nothing is the user's own."""
        return self._hash.hexdigest()[:16] if self.own else ""

    def value(self, value: Any) -> None:
        """A value that code refers to."""
        if isinstance(value, PLAIN):
            self._add(type(value).__name__, repr(value))
        elif self._depth > _DEPTH:
            self._add("deep", type(value).__qualname__)
        else:
            self._depth += 1
            self._compound(value)
            self._depth -= 1

    def _compound(self, value: Any) -> None:
        if isinstance(value, tuple | frozenset):
            self._items(value)
        elif id(value) not in self._known:
            self._known.add(id(value))
            self._kept.append(value)
            if isinstance(value, list | set):
                self._as_first_seen(value, lambda: self._items(value))
            elif isinstance(value, Mapping):
                self._as_first_seen(value, lambda: self._mapping(value))
            else:
                self._object(value)

    def _items(self, value: Any) -> None:
        self._add(type(value).__name__, str(len(value)))
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value):
            self.value(item)

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self._add("mapping", str(len(value)))
        for key, item in list(value.items()):
            self.value(key)
            self.value(item)

    def _as_first_seen(self, value: Any, walk: Callable[[], None]) -> None:
        """Walk through what can change, or take what came of that when it was first seen."""
        known = _FIRST.get(id(value))
        if known is None or (known[0]() if isinstance(known[0], weakref.ref) else known[0]) is not value:
            if (found := self._apart(value, walk)) is None:
                return
            try:
                kept: Any = weakref.ref(value)
            except TypeError:
                kept = value  # a list: its id must not go to another as long as it is known here
            known = _FIRST[id(value)] = kept, *found
            if len(_FIRST) > _MOST:
                del _FIRST[next(iter(_FIRST))]
        self._take(*known[1:])

    def _once(self, value: Any, walk: Callable[[], None]) -> None:
        """Walk through code, which each `CodeWalk` looks at again, and once by it wherever it is met."""
        if id(value) not in self._codes:
            if (found := self._apart(value, walk)) is None:
                return
            self._codes[id(value)] = found
        self._take(*self._codes[id(value)])

    def _apart(self, value: Any, walk: Callable[[], None]) -> tuple[str, bool] | None:
        """Digest of a value by itself, independent of what was met before it; None within that very walk."""
        if id(value) in self._walking:
            self._add("again", type(value).__qualname__)
            return None
        outer = self._hash, self._known, self.own
        self._hash, self._known, self.own = hashlib.sha256(), {id(value)}, False
        self._walking.add(id(value))
        try:
            walk()
            return self._hash.hexdigest(), self.own
        finally:
            self._walking.discard(id(value))
            self._hash, self._known, self.own = outer

    def _take(self, digest: str, own: bool) -> None:
        self._add("apart", digest)
        self.own = self.own or own

    def _object(self, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.module(value.__name__)
        elif isinstance(value, functools.partial):
            self.value((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self.value((value.__func__, value.__self__))
        elif isinstance(value, FunctionType):
            self._once(value, lambda: self._function(value))
        elif isinstance(value, type):
            self._once(value, lambda: self._class(value))
        elif isinstance(value, property):
            self.value((value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod):
            self.value(value.__func__)
        elif isinstance(value, functools._lru_cache_wrapper):
            self.value(value.__wrapped__)
        elif type(value).__module__.partition(".")[0] in ("numpy", "torch") and hasattr(value, "dtype"):
            self._as_first_seen(value, lambda: self._array(value))
        else:  # an object: what it does is its class's, and what it does it with is what it holds
            self._add("object", type(value).__qualname__)
            self.value(type(value))
            self._as_first_seen(value, lambda: self._held(value))

    def _array(self, value: Any) -> None:
        """An array or a scalar of numpy's, or a tensor; without importing either, for `proximo --help` reads this."""
        numbers = value.detach().cpu().float().numpy() if hasattr(value, "detach") else value
        self._add("array", f"{value.dtype} {tuple(value.shape)}")
        self._add(
            "numbers", repr(numbers) if numbers.dtype == object else hashlib.sha256(numbers.tobytes()).hexdigest()
        )

    def _held(self, value: Any) -> None:
        """Contents of an object; of a library's, its settings and what it wraps."""
        own = is_own(type(value).__module__) or dataclasses.is_dataclass(value)
        own = own or isinstance(value, SimpleNamespace | Namespace)
        held = dict(_attributes(value))
        if hasattr(type(value), "to_numpy"):  # a table of pandas or polars
            self.value((list(getattr(value, "columns", ())), value.to_numpy()))
            return
        if not held and not is_own(type(value).__module__):
            self._library_value(value)
        for name, item in sorted(held.items()):
            setting = isinstance(item, (*PLAIN, tuple, list, Mapping)) or callable(item) or name in _WRAPPED
            if own or setting:
                self._add("held", name)
                self.value(item)

    def _library_value(self, value: Any) -> None:
        """A value of a library that shows nothing of itself (a date, a path, a range): what it says it is made of."""
        try:
            parts = value.__reduce_ex__(2)
        except Exception:  # it can not be copied: its class is all that is known
            return
        if isinstance(parts, tuple):
            plain = [list(part) if hasattr(part, "__next__") else part for part in parts[1:5]]
            self.value(tuple(plain))

    def _function(self, function: FunctionType) -> None:
        if not is_own(function.__module__):
            self._add("library", f"{function.__module__}.{function.__qualname__}")
            return
        self.own = True
        code = function.__code__
        self._code(code)
        self.value((function.__defaults__, function.__kwdefaults__))
        states = _stored(function)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._bound(function, name, cell.cell_contents, state=name in states)
            except ValueError:  # not yet filled
                self._add("cell", "")
        for name, item in sorted(vars(function).items()):
            self._add("attribute", name)
            self._bound(function, name, item, state=name in states)
        source = self.module(function.__module__) if function.__module__ != "__main__" else None
        for name in sorted(set(_names(code))):
            if name in function.__globals__:
                self._add("global", name)
                self._named(function, name, function.__globals__[name], source, state=name in states)
        for name in sorted(set(_imports(code))):
            if own_source(name) is not None:
                self.module(name)

    def _class(self, cls: type) -> None:
        if not is_own(cls.__module__):
            self._add("library", f"{cls.__module__}.{cls.__qualname__}")
            return
        self.own = True
        self._add("class", cls.__name__)
        for base in cls.__bases__:
            self.value(base)
        source = self.module(cls.__module__) if cls.__module__ != "__main__" else None
        members = _members(cls)
        states = {name for member in members.values() if isinstance(member, FunctionType) for name in _stored(member)}
        for name, member in sorted(members.items()):
            if not (name.startswith("__") and name.endswith("__")) or callable(member):
                self._add("member", name)
                self._named(cls, name, member, source, state=name in states)

    def _named(self, holder: Any, name: str, value: Any, source: Program | None, *, state: bool) -> None:
        """Kind of a global or a class's member: code, or data.

        The source of a module that was read says what data begin as; what has become of them is this process's state,
        unless somebody else has put another value in the place of one that is written there.
        """
        if callable(value) or isinstance(value, property | staticmethod | classmethod | ModuleType):
            self.value(value)
        elif source is None:
            self._bound(holder, name, value, state=state)
        elif isinstance(value, PLAIN) and not state and dict(source.literals).get(name, repr(value)) != repr(value):
            self._add("instead", repr(value))

    def _bound(self, holder: Any, name: str, value: Any, *, state: bool) -> None:
        """The value of a name; as it was first seen where the code itself changes it, as a counter."""
        if not (state and isinstance(value, PLAIN)):
            self.value(value)
            return
        place = holder.__globals__ if isinstance(holder, FunctionType) else holder
        key = id(place), name
        if key not in _FIRST_NAMED or _FIRST_NAMED[key][0] is not place:
            _FIRST_NAMED[key] = place, repr(value)
        self._add(type(value).__name__, _FIRST_NAMED[key][1])

    def _code(self, code: CodeType) -> None:
        self._add("code", code.co_code.hex())
        self._add("names", repr((code.co_names, code.co_varnames, code.co_freevars)))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.value(constant)
                if isinstance(constant, str) and (task := _registered(constant)) is not None:
                    self._task(*task)

    def _task(self, entry: Any, kwargs: Any = (), wrappers: Any = ()) -> None:
        """A task of Gymnasium's registry: `module:Class` or what makes it, and what was given beside it."""
        if isinstance(entry, str) and own_source(entry.partition(":")[0]) is not None:
            self.module(entry.partition(":")[0])
        self.value((entry, kwargs, wrappers))

    def module(self, name: str) -> Program | None:
        """The source of a module of the user's own, and of those that it imports, at once or later; if it has one.

        Raises:
            UserError: it was edited since it was imported.
        """
        file = own_source(name)
        program = None if file is None else program_in(file)
        if name in self._read:
            return program
        self._read.add(name)
        self._add("module", name)
        if file is not None and program is not None:
            self.own = True
            _require_imported(name, program)
            self._add("source", program.text)
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            for other in own_names(program.imports, package):
                self.module(other)
        return program

    def _add(self, kind: str, text: str) -> None:
        self._hash.update(f"{kind}\0{text}\0".encode("utf-8", "surrogatepass"))


def _require_imported(name: str, program: Program) -> None:
    """Refuse a module whose file is not what this process would run.

    Raises:
        UserError: it was edited since.
    """
    if name not in sys.modules:
        return
    spec = getattr(sys.modules[name], "__spec__", None)
    known = _IMPORTED.get(name)
    if known is None or known[0] is not spec:
        _IMPORTED[name] = spec, program
    elif known[1].text != program.text:
        raise UserError(
            f"module {name} was edited, but this process still runs it as it was imported: restart Python, or "
            f"`importlib.reload({name})` and make again what was made of it"
        )


def _members(cls: type) -> dict[str, Any]:
    """Attributes that a class's own code has set on it."""
    members: dict[str, Any] = {}
    for name, member in vars(cls).items():
        ours = isinstance(member, FunctionType) and STANDS_FOR in vars(member)
        if not ours:
            members[name] = member
        elif vars(member)[STANDS_FOR] is not None:
            members[name] = vars(member)[STANDS_FOR]
    return members


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Values in an object's `__dict__` and in its slots."""
    yield from getattr(value, "__dict__", {}).items()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and is_own(cls.__module__):
                try:
                    yield name, getattr(value, name)
                except AttributeError:  # not filled
                    continue


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _names(code: CodeType) -> Iterator[str]:
    """Global names that a code and those within it may look up."""
    for each in _codes(code):
        yield from each.co_names


def _imports(code: CodeType) -> Iterator[str]:
    """Modules that a code and those within it import when they run."""
    for each in _codes(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname == "IMPORT_NAME":
                yield str(instruction.argval)


@functools.lru_cache(maxsize=1024)
def _stored_by(code: CodeType) -> frozenset[str]:
    """Names that a code and those within it give a value outside of themselves: globals, closures, attributes."""
    kinds = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")
    found = (each for inner in _codes(code) for each in dis.get_instructions(inner))
    return frozenset(str(each.argval) for each in found if each.opname in kinds)


def _stored(function: FunctionType) -> frozenset[str]:
    """Objects in which the functions of a namespace keep their state."""
    others = [x for x in list(function.__globals__.values()) if isinstance(x, FunctionType)]
    ours = [x for x in others if x.__globals__ is function.__globals__]
    return frozenset().union(_stored_by(function.__code__), *(_stored_by(x.__code__) for x in ours))


def _registered(name: str) -> tuple[Any, ...] | None:
    """Entry of Gymnasium's registry under a name that a code mentions, see `registration`; None if nothing."""
    gymnasium = sys.modules.get("gymnasium")
    spec = None if gymnasium is None else gymnasium.registry.get(name)
    if spec is None:
        return None
    found = registration(spec)
    return found if isinstance(found, tuple) else (found,)


def registration(spec: Any) -> Any:
    """Parts of a registered task: its entry point, and what was given beside it.

    Args:
        spec: of Gymnasium's registry.

    Returns:
        An entry point of the user's own or of a library, with arguments and wrappers where there are any.
    """
    entry = "" if spec.entry_point is None else spec.entry_point
    wrappers = tuple((wrapper.entry_point, wrapper.kwargs) for wrapper in spec.additional_wrappers or ())
    return (entry, spec.kwargs, wrappers) if spec.kwargs or wrappers else entry
