import pickle
import sys
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eg3d_renderer import RendererError
from eg3d_renderer.checkpoints.pickles import MAX_STEPS, Budget, Call, Global, Persistent, load

ALLOWED = frozenset({"collections.OrderedDict", "builtins.set", "builtins.complex"})
PROTO = b"\x80\x04"
ORDERED = b"ccollections\nOrderedDict\nq\x000"
OPCODES = [
    *(b"(", b")", b"]", b"}", b"\x8f", b"N", b"K\x01", b"\x8c\x01a", b"C\x01a"),  # values
    *(b"0", b"1", b"\x85", b"\x86", b"t", b"a", b"e", b"s", b"u", b"\x90"),  # what takes them
    *(b"ccollections\nOrderedDict\n", b"\x93", b"R", b"\x81", b"b", b"Q"),  # objects
    *(b"\x94", b"q\x00", b"h\x00"),  # the memo
]


def read(data: bytes, allowed: frozenset[str] = ALLOWED, **options: Any) -> Any:
    budget = Budget(steps=MAX_STEPS, bytes=len(data))
    value, end = load(memoryview(data), "x.pkl", allowed=allowed, budget=budget, **options)
    assert end == len(data)
    return value


def assert_read_or_refused(data: bytes, **options: Any) -> None:
    refusal = "x.pkl: byte"
    try:
        read(data, **options)
    except RendererError as error:
        refusal = str(error)
    assert refusal.startswith("x.pkl: byte")
    assert refusal.isprintable()


keys = st.text() | st.integers(1 - 2**32, 2**32 - 1) | st.none()
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**511), 2**511 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sets(st.text()),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner)
    ),
    max_leaves=20,
)


@given(value=values, protocol=st.sampled_from([4, 5]))
def test_plain_values_are_read_as_pickle_reads_them(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@given(data=st.binary(), count=st.integers(0, 3))
def test_only_renderer_errors_come_out_of_noise(data: bytes, count: int) -> None:
    assert_read_or_refused(PROTO + b"(" * count + data)


@given(st.lists(st.sampled_from(OPCODES), max_size=40))
def test_every_order_of_opcodes_ends(opcodes: list[bytes]) -> None:
    assert_read_or_refused(PROTO + b"".join(opcodes) + b".", persistent_ids=True)


def test_bytes_are_not_copied() -> None:
    data = bytearray(pickle.dumps(b"abc" * 1000, 4))
    view = read(data)  # type: ignore[arg-type]
    data[-2] ^= 1  # the last byte before STOP is MEMOIZE, the one before belongs to the value
    data[-3] ^= 1
    assert view != b"abc" * 1000


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_become_recipes(protocol: int) -> None:
    value = OrderedDict(a=1, b={1: [2.5]})
    allowed = frozenset({"collections.OrderedDict"})
    call = read(pickle.dumps(value, protocol), allowed)
    assert isinstance(call, Call)
    assert (call.name, call.args, call.items) == ("collections.OrderedDict", (), [*value.items()])


def test_a_class_is_a_name() -> None:
    named = read(pickle.dumps(complex, 4))
    assert isinstance(named, Global)
    assert named.name == "builtins.complex"


def test_persistent_ids_are_kept_where_they_are_expected() -> None:
    data = PROTO + b"K\x07Q."
    value = read(data, persistent_ids=True)
    assert isinstance(value, Persistent)
    assert value.id == 7
    with pytest.raises(RendererError, match="byte 4: a persistent id"):
        read(data)


def test_shared_and_cyclic_values_stay_so() -> None:
    shared: list[Any] = []
    shared.append(shared)
    one, two = read(pickle.dumps([shared, shared], 4))
    assert one is two is one[0]


def test_one_value_after_another() -> None:
    data = memoryview(pickle.dumps("a", 4) + pickle.dumps("b", 2))
    budget = Budget(steps=100, bytes=0)
    first, middle = load(data, "x.pkl", allowed=(), budget=budget)
    second, end = load(data, "x.pkl", allowed=(), budget=budget, position=middle)
    assert (first, second, end) == ("a", "b", len(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "byte 0: 1 bytes announced, 0 left"),
        (b"\x80\x06N.", "byte 0: no pickle of protocol 2 to 5"),
        (b"\x80\x01N.", "byte 0: no pickle of protocol 2 to 5"),
        (b"N.", "byte 0: no pickle of protocol 2 to 5"),
        (PROTO, "byte 2: 1 bytes announced, 0 left"),
        (PROTO + b".", "byte 2: STOP comes before"),
        (PROTO + b"(N.", "byte 4: STOP comes before"),
        (PROTO + b"NN.", "byte 4: STOP comes before"),
        (PROTO + b"0.", "byte 2: the stack is empty"),
        (PROTO + b"(0.", "byte 3: the stack is empty"),
        (PROTO + b"1.", "byte 2: no MARK is open"),
        (PROTO + b"\x94.", "byte 2: the stack is empty"),
        (PROTO + b"h\x05.", "byte 2: memo 5 was never written"),
        (PROTO + b"j\xff\xff\xff\xff.", "memo 4294967295 was never written"),
        (PROTO + b"\x95" + b"\xff" * 8 + b"N.", "byte 2: a frame of"),
        (PROTO + b"\x95\x0b" + b"\0" * 7 + b"\x95" + b"\0" * 8 + b"N.", "byte 11: a frame of 0"),
        (PROTO + b"\x95\x02" + b"\0" * 7 + b"X\x01\0\0\0a.", "byte 11: a frame ends inside"),
        (PROTO + b"\x8e" + b"\0" * 7 + b"\x40.", "byte 2: 4611686018427387904 bytes announced"),
        (PROTO + b"\x8d" + b"\xff" * 8 + b".", "byte 2: 18446744073709551615 bytes announced"),
        (PROTO + b"B\xff\xff\xff\x7f.", "byte 2: 2147483647 bytes announced, 1 left"),
        (PROTO + b"\x8b\xff\xff\xff\x7f.", "byte 2: an integer of 2147483647 bytes"),
        (PROTO + b"\x8a\x41" + b"\1" * 65 + b".", "byte 2: an integer of 65 bytes"),
        (PROTO + b"\x8c\x02\xc3\x28.", "byte 2: text that is not UTF-8"),
        (PROTO + b"}]Ns.", "byte 5: a key that is neither"),
        (PROTO + b"}G" + b"\0" * 8 + b"Ns.", "a key that is neither"),
        (PROTO + b"}\x8a\x05\0\0\0\0\x01Ns.", "a key that is neither"),
        (PROTO + b"\x8f()\x90.", "byte 5: a key that is neither"),
        (PROTO + b"}(Nu.", "a key without a value"),
        (PROTO + b"NNa.", "not a list"),
        (PROTO + b"N(Ne.", "not a list"),
        (PROTO + b"]NNs.", "not a dict"),
        (PROTO + b"](N\x90.", "not a set"),
        (PROTO + b"NNb.", "state for something that takes none"),
        (PROTO + b"N)R.", "not a global"),
        (PROTO + b"ccollections\nOrderedDict\nNR.", "not a global"),
        (PROTO + b"ccollections\nOrderedDict\n)R}b}b.", "takes none"),
        (PROTO + b"NN\x93.", "whose name is not text"),
        (PROTO + b"c" + b"a" * 300 + b"\nb\n.", "name without an end"),
        (PROTO + b"ios\nsystem\n.", "byte 2: it asks for os.system"),
        (PROTO + b"(ios\nsystem\n.", "it asks for os.system"),
        (PROTO + b"\x8c\x02os\x8c\x06system\x93.", "it asks for os.system"),
        (PROTO + b"\x8c\x02a\n\x8c\x02\xc2\x9b\x93.", r"it asks for 'a\\n.\\x9b'"),
        (PROTO + b"X\xe8\x03\0\0" + b"m" * 1000 + b"\x8c\x01n\x93.", "it asks for m{200}.n,"),
        (PROTO + b"\x82\x01.", "opcode EXT1 does not belong"),
        (PROTO + b"Pabc\n.", "opcode PERSID does not belong"),
        (PROTO + b"(I1\n.", "opcode INT does not belong"),
        (PROTO + b"N2.", "opcode DUP does not belong"),
        (PROTO + b"\x97.", "opcode NEXT_BUFFER does not belong"),
        (PROTO + b"\x80\x04N.", "opcode PROTO does not belong"),
        (PROTO + b"\xff.", "opcode 0xff does not belong"),
    ],
)
def test_load_refuses(data: bytes, said: str) -> None:
    with pytest.raises(RendererError, match=rf"^x\.pkl: .*{said}") as caught:
        read(data)
    assert str(caught.value).isprintable()


def test_load_allows_no_more_than_it_is_told_to() -> None:
    with pytest.raises(RendererError, match=r"it asks for collections\.OrderedDict"):
        read(pickle.dumps(OrderedDict(), 4), frozenset())


@pytest.mark.parametrize(
    "data",
    [
        b")" + b"\x85" * 200_000 + b".",
        b"]" * 200_000 + b"a" * 199_999 + b".",
        ORDERED + b"h\x00" * 200_000 + b")" + b"R\x85" * 200_000 + b".",
    ],
    ids=["tuples", "lists", "calls"],
)
def test_depth_costs_no_recursion(data: bytes) -> None:
    assert read(PROTO + data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"(" * 100_000, "nested more than 1000 deep"),
        (b"\x8f" * 100_000, "far more objects"),
        (b"]\x94" * 100_000, "far more objects"),
        (b")\x94" + b"h\x00h\x00\x86q\x00" * 30_000, "far more objects"),
        (ORDERED + b"h\x00)R" * 40_000, "far more objects"),
    ],
    ids=["marks", "sets", "memo", "doubling", "calls"],
)
def test_floods_take_little_memory(data: bytes, said: str) -> None:
    budget = Budget(steps=100_000, bytes=0)
    tracemalloc.start()
    try:
        with pytest.raises(RendererError, match=said):
            load(memoryview(PROTO + data), "x.pkl", allowed=ALLOWED, budget=budget)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300 * 100_000


def test_reading_imports_nothing() -> None:
    before = set(sys.modules)
    for module in ("this", "antigravity", "xmlrpc.server"):
        with pytest.raises(RendererError, match=f"it asks for {module}.s,"):
            read(PROTO + f"c{module}\ns\n.".encode())
    assert set(sys.modules) == before
