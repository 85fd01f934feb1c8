import builtins
import copyreg
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from graftwork.interop.torch_zip import TABLE_LIMIT, read_tensors


def saved(value: Any, **settings: Any) -> bytes:
    file = BytesIO()
    torch.save(value, file, **settings)
    return file.getvalue()


def archive(table: bytes, **members: bytes) -> bytes:
    """A file of torch's form with that pickle, and by default 24 bytes of storage: the floats 0 to 5."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("archive/data.pkl", table)
        out.writestr("archive/data/0", members.get("storage", np.arange(6, dtype=np.float32).tobytes()))
        out.writestr("archive/byteorder", members.get("byteorder", b"little"))
    return file.getvalue()


class Stored:
    """What a persistent id is written for."""

    def __init__(self, *address: Any) -> None:
        self.address = address


class Rebuilt:
    """What is written as a tensor rebuilt from such arguments."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.address if isinstance(value, Stored) else None


def table(value: Any, protocol: int = 2) -> bytes:
    file = BytesIO()
    Pickler(file, protocol).dump(value)
    return file.getvalue()


STORED = Stored("storage", torch.FloatStorage, "0", "cpu", 6)


def tensor(offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1), storage: Any = STORED, hooks: Any = None) -> Any:
    return Rebuilt(storage, offset, size, stride, False, OrderedDict() if hooks is None else hooks)


def refusal(data: bytes) -> str:
    """The one line that it is refused with."""
    with pytest.raises(ValueError, match=r"^policy\.pth: ") as caught:
        read_tensors(data, "policy.pth")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    return str(caught.value).removeprefix("policy.pth: ")


def table_or_refusal(data: bytes) -> dict[str, torch.Tensor] | str:
    try:
        return read_tensors(data, "policy.pth")
    except ValueError:
        return refusal(data)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_those_that_torch_saved(protocol):
    module = nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.Linear(7, 1)).to(memory_format=torch.channels_last)
    module.double()[0].float()
    state = module.state_dict()
    found = read_tensors(saved(state, pickle_protocol=protocol), "policy.pth")
    assert list(found) == list(state)
    for name, expected in state.items():
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected), name


def test_hand_written_table_is_read():
    data = archive(table({"a": tensor(), "b": tensor(offset=1, size=(2,), stride=(4,)), "c": tensor(5, (), ())}))
    found = read_tensors(data, "policy.pth")
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].tolist() == [1, 5]
    assert found["c"].item() == 5


def test_step_along_an_axis_of_one_entry_does_not_count():
    found = read_tensors(archive(table({"a": tensor(size=(1, 6), stride=(10**30, 1))})), "policy.pth")
    assert found["a"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_table_without_tensors_is_empty():
    assert read_tensors(saved(OrderedDict()), "policy.pth") == {}


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((2, 3), (3, 1), 1),
        ((7,), (1,), 0),
        ((2,), (6,), 0),
        ((7, 7), (0, 0), 0),  # 49 entries of one number
        ((10**9, 10**9), (0, 0), 0),
        ((2, 3), (3, -1), 2),
        ((2, 3), (3, 1), -1),
        ((2, 3), (3,), 0),
        ((1,) * 9, (1,) * 9, 0),
        ((0,), (1,), 0),
        ((10**12, 0), (1, 1), 0),
        ((-2, -3), (3, 1), 0),
    ],
)
def test_tensor_that_its_bytes_do_not_hold_is_refused(size, stride, offset):
    assert refusal(archive(table({"a": tensor(offset, size, stride)}))).startswith("has a tensor of size (")


@pytest.mark.parametrize(
    "what",
    [
        tensor(offset="0"),
        tensor(offset=True),
        tensor(size=[2, 3]),
        tensor(size=(2.0, 3)),
        tensor(size=6),
        tensor(storage="0"),
        tensor(hooks=OrderedDict(a=1)),
        tensor(hooks=()),
        Rebuilt(STORED, 0, (2, 3), (3, 1), False),
    ],
)
def test_tensor_of_other_arguments_is_refused(what):
    assert refusal(archive(table({"a": what}))).endswith("not a table of weights")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 7), "data/0 has 24 bytes, its table says 28"),
        (("storage", torch.FloatStorage, "0", "cpu", 5), "data/0 has 24 bytes, its table says 20"),
        (("storage", torch.FloatStorage, "0", "cpu", -6), "data/0 has 24 bytes, its table says -24"),
        (("storage", torch.FloatStorage, "0", "cpu", 10**15), "data/0 has 24 bytes, its table says 4000000000000000"),
        (("storage", torch.FloatStorage, "1", "cpu", 6), "has no archive/data/1"),
        (("storage", torch.FloatStorage, "../../data.pkl", "cpu", 6), "has no archive/data/../../data.pkl"),
        (("storage", torch.ComplexFloatStorage, "0", "cpu", 3), "asks for torch.ComplexFloatStorage"),
        (("module", torch.FloatStorage, "0", "cpu", 6), "asks for something stored that is no tensor"),
        (("storage", "FloatStorage", "0", "cpu", 6), "asks for something stored that is no tensor"),
        (("storage", torch.FloatStorage, 0, "cpu", 6), "asks for something stored that is no tensor"),
        (("storage", torch.FloatStorage, "0", "cpu", "6"), "asks for something stored that is no tensor"),
        (("storage",), "asks for something stored that is no tensor"),
        ((), "asks for something stored that is no tensor"),
    ],
)
def test_storage_that_is_not_there_is_refused(address, said):
    assert refusal(archive(table({"a": tensor(storage=Stored(*address))}))).startswith(said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3), "holds one Tensor: not a table of weights"),
        ({"a": 1}, "a is of type int: not a table of weights"),
        ({"a": {"b": torch.zeros(2)}}, "a is of type dict: not a table of weights"),
        ({1: torch.zeros(2)}, "has names of type int: not a table of weights"),
        ([torch.zeros(2)], "asks for EMPTY_LIST: not a table of weights"),
        ({"a": 1.5}, "asks for BINFLOAT: not a table of weights"),
        ({"a": b"bytes"}, "asks for _codecs.encode: not a table of weights"),
        ({"a": nn.Parameter(torch.zeros(2))}, "asks for torch._utils._rebuild_parameter: not a table of weights"),
        (nn.Linear(2, 3), "asks for torch.nn.modules.linear.Linear: not a table of weights"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(value, said):
    assert refusal(saved(value)) == said


class Payload:
    """Calls `function` on `arguments` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Reconstructed:
    """An object as protocol 2 knows none, but older ones do."""

    def __reduce__(self) -> Any:
        return copyreg._reconstructor, (Payload, object, None)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<L", len(value)) + value.encode()


def instance(name: str, argument: str) -> bytes:
    """By INST, which imports and calls at once."""
    return b"(" + text(argument) + b"i" + name.replace(".", "\n").encode() + b"\n."


def object_of(name: str, argument: str) -> bytes:
    """By OBJ, which calls what lies on the stack."""
    return b"(c" + name.replace(".", "\n").encode() + b"\n" + text(argument) + b"o."


SYSTEM = f"{os.system.__module__}.system"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda evil: evil,
        lambda evil: {"q_net.weight": evil},
        lambda evil: OrderedDict(a=tensor(), b=evil),
        lambda evil: {"a": tensor(hooks=evil)},
        lambda evil: {"a": tensor(offset=evil)},
        lambda evil: {"a": tensor(storage=Stored("storage", evil, "0", "cpu", 6))},
        lambda evil: {"a": tensor(storage=Stored(evil))},
        lambda evil: Rebuilt(evil),
    ],
)
def test_pickle_that_calls_something_calls_nothing(tmp_path, wrap, protocol):
    marker = tmp_path / "marker"
    program = table(wrap(Payload(os.system, f"touch {marker}")), protocol)
    assert refusal(archive(program)) == f"asks for {SYSTEM}: not a table of weights"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "name"),
    [
        (lambda command: table(Payload(os.system, command)), SYSTEM),
        (lambda command: table(Payload(builtins.eval, f"__import__('os').system({command!r})")), "__builtin__.eval"),
        (lambda command: table(Payload(builtins.exec, f"import os; os.system({command!r})")), "__builtin__.exec"),
        (lambda command: table(Payload(builtins.getattr, b"", "decode")), "__builtin__.getattr"),
        (lambda command: instance(SYSTEM, command), SYSTEM),
        (lambda command: object_of(SYSTEM, command), SYSTEM),
        (lambda command: table(Reconstructed()), "copy_reg._reconstructor"),
        (lambda command: b"\x80\x02}}X\x01\x00\x00\x00a}sb.", "the state of an object"),
        (lambda command: b"\x80\x02\x82\x01.", "EXT1"),
        (lambda command: b"\x80\x02\x8a\x01\x01Q.", "something stored that is no tensor"),
        (lambda command: b"\x80\x02Pos.system\n.", "PERSID"),
    ],
)
def test_every_kind_of_call_is_refused_by_name(tmp_path, program, name):
    marker = tmp_path / "marker"
    assert refusal(archive(program(f"touch {marker}"))) == f"asks for {name}: not a table of weights"
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [lambda command: table(Payload(os.system, command)), lambda command: instance(SYSTEM, command)],
)
def test_such_programs_do_run_when_unpickled(tmp_path, program):
    marker = tmp_path / "marker"
    pickle.loads(program(f"touch {marker}"))
    assert marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02t.",  # a tuple without a mark
        b"\x80\x02h\x07.",  # nothing was remembered there
        b"\x80\x02q\x01.",  # nothing to remember
        b"\x80\x02R.",
        b"\x80\x02)b.",
        b"\x80\x02}K\x01s.",
        b"\x80\x02}(X\x01\x00\x00\x00au.",  # a name without a value
        b"\x80\x02(s.",
        b"\x80\x02(.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x02X\x02\x00\x00\x00\xff\xff.",  # no UTF-8
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of two gigabytes
        b"\xff",
        b"not a pickle",
    ],
)
def test_damaged_table_is_refused(program):
    refusal(archive(program))


def test_names_in_messages_are_plain_and_short():
    said = refusal(archive(b"\x80\x02c" + b"\x1b[31m\xc2\xa0" * 100 + b"\nsystem\n."))
    assert re.fullmatch(r"[ -~]+", said)
    assert len(said) < 150


def test_file_that_is_no_zip_is_refused():
    assert refusal(b"garbage").startswith("is no zip file, or a damaged one")
    assert refusal(b"").startswith("is no zip file, or a damaged one")


def test_file_of_old_torch_is_refused():
    said = refusal(saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False))
    assert said.startswith("is no zip file, or a damaged one")


def test_zip_without_or_with_two_tables_is_refused():
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("readme", "")
    assert refusal(file.getvalue()) == "is no file of torch.save: it has 0 members called data.pkl, not one"
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", table({}))
        out.writestr("b/data.pkl", table({}))
    assert refusal(file.getvalue()) == "is no file of torch.save: it has 2 members called data.pkl, not one"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name_are_refused():
    file = BytesIO(archive(table({})))
    with zipfile.ZipFile(file, "a") as out:
        out.writestr("archive/data.pkl", table({"a": tensor()}))
    assert refusal(file.getvalue()) == "has two members called archive/data.pkl"


def test_bytes_in_another_order_are_refused():
    assert refusal(archive(table({}), byteorder=b"big")).startswith("its bytes are in the order ")


def test_compressed_bomb_is_refused_before_it_is_unpacked():
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", table({"a": tensor()}))
        out.writestr("archive/data/0", bytes(24_000_000))
    size = len(file.getvalue())
    assert size < 30_000
    assert refusal(file.getvalue()) == f"its members say they have 24,000,166 bytes, the file has {size:,}"


def test_table_beyond_the_limit_is_refused():
    said = refusal(archive(bytes(TABLE_LIMIT + 1)))
    assert said == "archive/data.pkl has 1,048,577 bytes; at most 1,048,576 are read"


def claims(data: bytes, member: str, size: int) -> bytes:
    """The file, whose directory says that the member has that many bytes."""
    place = data.rindex(member.encode()) - 46
    assert data[place : place + 4] == b"PK\x01\x02"
    return data[: place + 24] + struct.pack("<L", size) + data[place + 28 :]


@pytest.mark.parametrize("size", [0, 23, 25, 1 << 31, (1 << 32) - 2])
def test_member_that_lies_about_its_size_is_refused(size):
    refusal(claims(archive(table({"a": tensor()})), "archive/data/0", size))


SAVED = saved(nn.Linear(3, 5).state_dict())


def test_file_cut_off_anywhere_is_refused():
    for length in range(0, len(SAVED), 7):
        refusal(SAVED[:length])


@given(st.integers(0, 8 * len(SAVED) - 1))
def test_file_with_one_bit_changed_is_refused_or_the_same(bit):
    data = bytearray(SAVED)
    data[bit // 8] ^= 1 << bit % 8
    found = table_or_refusal(bytes(data))
    if isinstance(found, dict):
        expected = read_tensors(SAVED, "policy.pth")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@given(st.binary(max_size=60))
def test_any_program_is_refused_in_one_line_or_is_a_table(program):
    table_or_refusal(archive(b"\x80\x02" + program))
