"""A pickle machine that builds inert values only: nothing a file names is imported or called.

It reads what CPython's Pickler writes under protocols 2 to 5 (opcodes: `pickletools.dis`).

    in the file                           becomes
    None, bool, int, float, str           the same; an int has at most 64 bytes
    list, tuple, dict, set                the same; keys are text, None or small ints
    bytes                                 a memoryview into the file, not a copy
    GLOBAL, STACK_GLOBAL                  Global(name), if `allowed` holds the name
    REDUCE, NEWOBJ, INST                  Call(name, args), and its BUILD and SETITEMS later on
    BINPERSID                             Persistent(id), if the caller expects any

The file is hostile until proven otherwise. Every length is checked before it is used, no value is
hashed, compared or printed whose depth the file chooses, and a Budget bounds time and memory.
Values may be shared or cyclic: whoever walks them pays a step of the same Budget for each visit.
"""

import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn

from eg3d_renderer.errors import RendererError

MAX_STEPS = 1_000_000  # three networks of SphereHead's 303 tensors take about 80,000
MAX_MARKS = 1000  # open at once; CPython's Pickler gives up earlier
MAX_INT = 64  # bytes
MAX_NAME = 200  # characters of a global's module, and of its name

U8, U16, U32, U64, I32, F64 = (struct.Struct(code) for code in ("<B", "<H", "<I", "<Q", "<i", ">d"))
NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


@dataclass(slots=True, eq=False, repr=False)
class Global:
    """A class or function, as a dotted name."""

    name: str


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """An object, as the recipe the file gives: a global's name, its arguments, what follows."""

    name: str
    args: tuple
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Persistent:
    """Something stored outside the pickle, as the id the file gives it."""

    id: object


@dataclass(slots=True)
class Budget:
    """What reading one file may still cost: opcodes and visits, and bytes of tensors."""

    steps: int
    bytes: int

    def spend(self, source: str, *, steps: int = 0, nbytes: int = 0) -> None:
        """Raises RendererError, naming `source`, once there is nothing left."""
        self.steps -= steps
        self.bytes -= nbytes
        if self.steps < 0:
            raise RendererError(f"{source}: far more objects than a checkpoint has; not read")
        if self.bytes < 0:
            raise RendererError(f"{source}: its tensors claim more bytes than the file has")


def load(
    data: memoryview,
    source: str,
    *,
    allowed: Collection[str],
    budget: Budget,
    position: int = 0,
    persistent_ids: bool = False,
) -> tuple[Any, int]:
    """The value pickled at `position` of `data`, and the position behind it.

    `source` names the file in errors; `allowed` holds the dotted names of globals that may occur.
    Raises RendererError, with the byte's position, for a global that is not allowed (named), an
    opcode no Pickler of protocols 2 to 5 writes, or anything damaged.
    """
    return Machine(data, source, allowed, budget, position, persistent_ids).run()


class Machine:
    """A stack, the stacks set aside by open MARKs, and a memo."""

    def __init__(
        self,
        data: memoryview,
        source: str,
        allowed: Collection[str],
        budget: Budget,
        position: int,
        persistent_ids: bool,
    ) -> None:
        self.data = data
        self.source = source
        self.allowed = allowed
        self.budget = budget
        self.position = self.start = position  # start: of the opcode, for errors
        self.persistent_ids = persistent_ids
        self.frame_end = position
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[Any, int]:
        if NAMES.get(self.number(U8)) != "PROTO" or not 2 <= (protocol := self.number(U8)) <= 5:
            self.refuse("no pickle of protocol 2 to 5 starts here")
        while True:
            self.budget.spend(self.source, steps=1)
            self.start = self.position
            code = self.number(U8)
            name = NAMES.get(code, f"0x{code:02x}")
            if name == "STOP":
                break
            if name not in STEPS:
                self.refuse(f"opcode {name} does not belong into protocol {protocol}")
            STEPS[name](self)
        if self.marks or len(self.stack) != 1:
            self.refuse("STOP comes before the value is complete")
        return self.stack[0], self.position

    def refuse(self, what: str) -> NoReturn:
        raise RendererError(
            f"{self.source}: byte {self.start}: {what}; "
            "damaged or not an official checkpoint, download it again"
        )

    # reading

    def take(self, size: int) -> memoryview:
        begin, end = self.position, self.position + size
        if end > len(self.data):
            self.refuse(f"{size} bytes announced, {len(self.data) - begin} left")
        if begin < self.frame_end < end:
            self.refuse("a frame ends inside a value")
        self.position = end
        return self.data[begin:end]

    def number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self.take(layout.size))[0]

    def integer(self, size: int) -> int:
        if size > MAX_INT:
            self.refuse(f"an integer of {size} bytes")
        return int.from_bytes(self.take(size), "little", signed=True)

    def text(self, size: int) -> str:
        try:
            return str(self.take(size), "utf-8")
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")

    def line(self) -> str:
        length = bytes(self.data[self.position : self.position + MAX_NAME + 1]).find(b"\n")
        if length < 0:
            self.refuse("a global's name without an end")
        text = self.text(length)
        self.take(1)
        return text

    def frame(self) -> None:
        length = self.number(U64)
        if self.position < self.frame_end or length > len(self.data) - self.position:
            self.refuse(f"a frame of {length} bytes does not fit")
        self.frame_end = self.position + length

    # the stack and the memo

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            self.refuse("the stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        self.push(value := self.pop())
        return value

    def mark(self) -> None:
        if len(self.marks) == MAX_MARKS:
            self.refuse(f"nested more than {MAX_MARKS} deep")
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            self.refuse("no MARK is open")
        values, self.stack = self.stack, self.marks.pop()
        return values

    def pop_many(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"memo {index} was never written")
        self.push(self.memo[index])

    # containers

    def key(self, value: object) -> Any:
        """`value`, if hashing it is cheap and cannot recurse."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and abs(value) < 2**32:
            return value
        self.refuse("a key that is neither text nor a small integer")

    def extend(self, values: list[Any]) -> None:
        if not isinstance(target := self.top(), list):
            self.refuse("items for something that is not a list")
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        if not isinstance(target := self.top(), set):
            self.refuse("items for something that is not a set")
        target.update(map(self.key, values))

    def set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            self.refuse("a key without a value")
        pairs = zip(map(self.key, values[::2]), values[1::2], strict=True)
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Call):
            target.items.extend(pairs)
        else:
            self.refuse("items for something that is not a dict")

    # objects

    def find(self, module: object, name: object) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            self.refuse("a global whose name is not text")
        dotted = f"{module[:MAX_NAME]}.{name[:MAX_NAME]}"
        if dotted not in self.allowed:
            shown = dotted if dotted.isprintable() else ascii(dotted)
            self.refuse(f"it asks for {shown}, which was refused and not run")
        return Global(dotted)

    def call(self, function: object, args: object) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            self.refuse("a call of something that is not a global")
        self.push(Call(function.name, args))

    def build(self, state: object) -> None:
        target = self.top()
        if not isinstance(target, Call) or target.state is not None:
            self.refuse("state for something that takes none")
        target.state = state

    def persistent(self) -> None:
        if not self.persistent_ids:
            self.refuse("a persistent id, where there can be none")
        self.push(Persistent(self.pop()))


STEPS: dict[str, Callable[[Machine], object]] = {
    "FRAME": Machine.frame,
    "NONE": lambda m: m.push(None),
    "NEWTRUE": lambda m: m.push(True),
    "NEWFALSE": lambda m: m.push(False),
    "BININT": lambda m: m.push(m.number(I32)),
    "BININT1": lambda m: m.push(m.number(U8)),
    "BININT2": lambda m: m.push(m.number(U16)),
    "LONG1": lambda m: m.push(m.integer(m.number(U8))),
    "LONG4": lambda m: m.push(m.integer(m.number(U32))),
    "BINFLOAT": lambda m: m.push(m.number(F64)),
    "SHORT_BINUNICODE": lambda m: m.push(m.text(m.number(U8))),
    "BINUNICODE": lambda m: m.push(m.text(m.number(U32))),
    "BINUNICODE8": lambda m: m.push(m.text(m.number(U64))),
    "SHORT_BINBYTES": lambda m: m.push(m.take(m.number(U8))),
    "BINBYTES": lambda m: m.push(m.take(m.number(U32))),
    "BINBYTES8": lambda m: m.push(m.take(m.number(U64))),
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK": Machine.pop_mark,
    "BINGET": lambda m: m.get(m.number(U8)),
    "LONG_BINGET": lambda m: m.get(m.number(U32)),
    "BINPUT": lambda m: m.put(m.number(U8)),
    "LONG_BINPUT": lambda m: m.put(m.number(U32)),
    "MEMOIZE": lambda m: m.put(len(m.memo)),
    "EMPTY_TUPLE": lambda m: m.push(()),
    "TUPLE1": lambda m: m.push(tuple(m.pop_many(1))),
    "TUPLE2": lambda m: m.push(tuple(m.pop_many(2))),
    "TUPLE3": lambda m: m.push(tuple(m.pop_many(3))),
    "TUPLE": lambda m: m.push(tuple(m.pop_mark())),
    "EMPTY_LIST": lambda m: m.push([]),
    "APPEND": lambda m: m.extend(m.pop_many(1)),
    "APPENDS": lambda m: m.extend(m.pop_mark()),
    "EMPTY_DICT": lambda m: m.push({}),
    "SETITEM": lambda m: m.set_items(m.pop_many(2)),
    "SETITEMS": lambda m: m.set_items(m.pop_mark()),
    "EMPTY_SET": lambda m: m.push(set()),
    "ADDITEMS": lambda m: m.add(m.pop_mark()),
    "GLOBAL": lambda m: m.push(m.find(m.line(), m.line())),
    "STACK_GLOBAL": lambda m: m.push(m.find(*m.pop_many(2))),
    "INST": lambda m: m.call(m.find(m.line(), m.line()), tuple(m.pop_mark())),
    "REDUCE": lambda m: m.call(*m.pop_many(2)),
    "NEWOBJ": lambda m: m.call(*m.pop_many(2)),
    "BUILD": lambda m: m.build(m.pop()),
    "BINPERSID": Machine.persistent,
}
