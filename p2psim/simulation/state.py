"""Encoding of a peer's state as plain values and memory, and its decoding; no pickle, no code.

The state of an object is its attributes (base.Algorithm). Numbers, text, containers, arrays and
tensors are encoded; arrays that overlap in memory overlap again after decoding. Objects are not
created from a checkpoint: the resumed run creates them as the first run did, and the decoder
restores their attributes. The exceptions are messages and transfers in flight, which the decoder
creates, because they exist for a few rounds only.
"""

from __future__ import annotations

import ctypes
from collections import deque
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from p2psim.network.buffers import ReceiveBuffers, SendBuffers
from p2psim.network.messages import Packet, Tailed
from p2psim.network.transfer import Transfer
from p2psim.simulation.bound import BoundAttributes
from p2psim.vectors import Scratch

Node: TypeAlias = Any  # None, bool, int, float, str, bytes, or a list whose first entry is a tag
Block: TypeAlias = NDArray[np.uint8]  # memory of arrays
CREATED = {cls.__name__: cls for cls in (Packet, Tailed, Transfer, ReceiveBuffers, SendBuffers)}
SEQUENCES = {cls.__name__: cls for cls in (list, tuple, set, frozenset, deque)}
# Attributes that are no state: the resumed run has set them as the first run did.
CONSTANT = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, Path, Scratch)
INT64 = range(-(2**63), 2**63)  # larger integers are encoded as text


class StateEncoder:
    """Encoder of values as nodes. The memory of arrays is not copied; see `blocks`.

    `known` are objects that the resumed run builds anyway, by name: only the name is encoded.
    Attributes of plug-ins that are bound are left out, see bound.py.
    """

    def __init__(self, known: dict[str, object], bound: BoundAttributes) -> None:
        self.bound = bound
        self.known = {id(value): name for name, value in known.items()}
        self.objects: dict[int, int] = {}  # id of an object: its number
        self.spans: list[
            tuple[int, int, list[Any]]
        ] = []  # first address, end, and place (see view)
        self.alive: list[object] = []  # a freed object could leave its id or memory to another

    def node(self, value: Any, where: str) -> Node:
        """Return the node of a value.

        TypeError if the value cannot be encoded; the message names its path `where` in the state.
        """
        plain = value is None or type(value) in (bool, float, str, bytes)
        if plain or (type(value) is int and value in INT64):
            return value
        if type(value) is int:
            return ["int", str(value)]
        if id(value) in self.known:
            return ["known", self.known[id(value)]]
        if id(value) in self.objects:
            return ["same", self.objects[id(value)]]
        if type(value) in SEQUENCES.values():
            items = [self.node(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return [type(value).__name__, *items]
        if isinstance(value, dict):
            pairs = [
                [self.node(key, where), self.node(inner, f"{where}[{key!r}]")]
                for key, inner in value.items()
            ]
            return ["dict", type(value) is dict, *pairs]
        return self.object_node(value, where)

    def object_node(self, value: Any, where: str) -> Node:
        """Return the node of a value that is neither plain nor a container."""
        self.alive.append(value)
        if isinstance(value, np.ndarray | np.generic):
            return self.array(np.asarray(value), isinstance(value, np.generic), where)
        if isinstance(value, np.dtype):
            return ["dtype", value.str]
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            return ["generator", state["bit_generator"], self.node(state, where)]
        if is_tensor(value):
            requires_grad = value.requires_grad and value.is_leaf
            grad = self.node(value.grad, f"{where}.grad") if requires_grad else None
            return ["tensor", self.array(value.detach().numpy(), False, where), requires_grad, grad]
        if isinstance(value, CONSTANT):
            return ["constant"]
        if not hasattr(value, "__dict__"):
            raise TypeError(
                f"{where} holds a {type(value).__name__}, which no checkpoint can hold: keep "
                "numbers, text, arrays, and lists, tuples, dicts and sets of them"
            )
        self.objects[id(value)] = len(self.objects)
        attributes = {
            name: self.node(inner, f"{where}.{name}")
            for name, inner in vars(value).items()
            if not self.bound.is_bound(value, name, inner)
        }
        return ["object", type(value).__name__, attributes]

    def array(self, array: Any, scalar: bool, where: str) -> Node:
        """Return the node of an array: a view of memory, which other arrays may share."""
        if array.dtype.hasobject or array.dtype.names:
            raise TypeError(f"{where} is an array of {array.dtype}: keep plain numbers in arrays")
        self.alive.append(array)
        place = [0, array.__array_interface__["data"][0], list(array.shape), list(array.strides)]
        self.spans.append((*byte_bounds(array), place))
        return ["array", array.dtype.str, scalar, place]

    def blocks(self) -> list[Block]:
        """Return the memory of all arrays; arrays that overlap are in one block.

        It completes the nodes of the arrays by block and offset, and must be called once, after the
        last call of `node`.
        """
        merged: list[list[int]] = []  # first address and end of each block
        for low, high, place in sorted(self.spans, key=lambda span: span[:2]):
            if merged and low < merged[-1][1]:
                merged[-1][1] = max(high, merged[-1][1])
            else:
                merged.append([low, high])
            place[:2] = len(merged) - 1, place[1] - merged[-1][0]
        return [memory(low, high) for low, high in merged]


def memory(low: int, high: int) -> Block:
    """Return the memory from address `low` to address `high`, without a copy."""
    if low == high:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
DEPTH = 200  # levels of nesting in a state; Python's own stack ends at about 1000 calls


def check_node(node: Node, blocks: list[Block], depth: int = DEPTH) -> None:
    """Check that a node read from a file has the form that StateEncoder gives it.

    ValueError or TypeError otherwise: an array must lie within its block of `blocks`, and no other
    name than those of StateEncoder is looked up.
    """
    if not depth:
        raise ValueError(f"a state is nested more than {DEPTH} times")
    match node:
        case None | bool() | int() | float() | str() | bytes():
            return
        case ["int", str(text)]:
            int(text)
            return
        case ["dtype", str(text)]:
            np.dtype(text)
            return
        case ["known", str()] | ["same", int()] | ["constant"]:
            return
        case ["array", str(dtype), bool(), place]:
            view(blocks, dtype, place)
            return
        case ["generator", str(name), state] if name in GENERATORS:
            inner = [state]
        case ["tensor", ["array", *_] as array, bool(), grad]:
            inner = [array, grad]
        case ["object", str(), dict(attributes)] if all(isinstance(k, str) for k in attributes):
            inner = list(attributes.values())
        case ["dict", bool(), *pairs] if all(
            isinstance(pair, list) and len(pair) == 2 for pair in pairs
        ):
            inner = [part for pair in pairs for part in pair]
        case [str(tag), *items] if tag in SEQUENCES:
            inner = items
        case _:
            raise ValueError(f"a state has no part such as {str(node)[:60]}")
    for part in inner:
        check_node(part, blocks, depth - 1)


def view(blocks: list[Block], dtype: str, place: Node) -> Any:
    """Return the array at a place: [block, offset in bytes, shape, strides in bytes].

    ValueError or TypeError if the array does not lie within the block.
    """
    if np.dtype(dtype).hasobject:  # entries would be addresses, which a file must not choose
        raise ValueError(f"an array has no entries such as {dtype}")
    match place:
        case [int(block), int(offset), list(shape), list(strides)] if 0 <= block < len(blocks):
            return np.ndarray(tuple(shape), dtype, blocks[block], offset, tuple(strides))
    raise ValueError(f"an array has no place such as {str(place)[:60]}")


class StateDecoder:
    """Decoder of nodes; restores attributes of objects that the resumed run has created."""

    def __init__(
        self, known: dict[str, object], blocks: list[Block], bound: BoundAttributes
    ) -> None:
        self.known, self.blocks, self.bound = known, blocks, bound
        self.objects: list[Any] = []  # by number, in the order in which they were encoded

    def value(self, node: Node, fresh: Any, where: str) -> Any:
        """Return the value of a node.

        `fresh` is the value that the resumed run has set at the same path `where`, or None.
        """
        if not isinstance(node, list):
            return node
        tag, *rest = node
        if tag in SEQUENCES:
            old = list(fresh) if type(fresh).__name__ == tag else []
            old += [None] * (len(rest) - len(old))
            items = [self.value(n, o, where) for n, o in zip(rest, old, strict=False)]
            limit = getattr(fresh, "maxlen", None)
            return deque(items, limit) if tag == "deque" else SEQUENCES[tag](items)
        return getattr(self, f"_{tag}")(fresh, where, *rest)

    def _int(self, fresh: Any, where: str, text: str) -> int:
        return int(text)

    def _known(self, fresh: Any, where: str, name: str) -> Any:
        return self.known[name]

    def _same(self, fresh: Any, where: str, number: int) -> Any:
        return self.objects[number]

    def _dict(self, fresh: Any, where: str, plain: bool, *pairs: Node) -> Any:
        old = fresh if isinstance(fresh, dict) else {}
        keys = [self.value(k, None, where) for k, _ in pairs]
        values = [
            self.value(v, old.get(k), f"{where}[{k!r}]")
            for k, (_, v) in zip(keys, pairs, strict=True)
        ]
        content = dict(zip(keys, values, strict=True))
        if plain:
            return content
        old.clear()  # of a subclass such as defaultdict only the content is state
        old.update(content)
        return old

    def _array(self, fresh: Any, where: str, dtype: str, scalar: bool, place: Node) -> Any:
        array = view(self.blocks, dtype, place)
        return array[()] if scalar else array

    def _dtype(self, fresh: Any, where: str, text: str) -> Any:
        return np.dtype(text)

    def _generator(self, fresh: Any, where: str, name: str, state: Node) -> Any:
        bits = getattr(np.random, name)()
        bits.state = self.value(state, None, where)
        return np.random.Generator(bits)

    def _tensor(self, fresh: Any, where: str, array: Node, requires_grad: bool, grad: Node) -> Any:
        import torch

        tensor = torch.from_numpy(self.value(array, None, where))
        if isinstance(fresh, torch.nn.Parameter):  # keep the object: modules refer to it
            fresh.data, tensor = tensor, fresh
        tensor.requires_grad_(requires_grad).grad = self.value(grad, None, where)
        return tensor

    def _constant(self, fresh: Any, where: str) -> Any:
        return fresh

    def _object(self, fresh: Any, where: str, kind: str, attributes: dict[str, Node]) -> Any:
        if kind in CREATED:
            fresh = CREATED[kind].__new__(CREATED[kind])
        elif type(fresh).__name__ != kind:
            raise TypeError(
                f"{where} held a {kind} when the checkpoint was written: an object that is state "
                "must be created by `start` or `bind`, so that a resumed run has it too"
            )
        self.objects.append(fresh)
        old = dict(vars(fresh))
        vars(fresh).clear()
        for name, node in attributes.items():
            vars(fresh)[name] = self.value(node, old.get(name), f"{where}.{name}")
        for name, value in self.bound.of(fresh).items():
            vars(fresh).setdefault(name, value)
        return fresh


def is_tensor(value: Any) -> bool:
    """Return True if a value is a torch.Tensor, without importing torch."""
    return any((cls.__module__, cls.__name__) == ("torch", "Tensor") for cls in type(value).__mro__)
