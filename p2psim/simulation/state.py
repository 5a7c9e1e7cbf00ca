"""A peer's state as plain values and memory, and back again: no pickle, no code in a checkpoint.

What an object keeps in its attributes is its state (base.Algorithm). Numbers, text, containers,
arrays and tensors are written out; what overlaps in memory will overlap again. An object is not
made from a checkpoint: the resumed run makes it as the first run did, and its attributes are filled
in. Only messages and transfers under way are made anew, since they come and go with the rounds.
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
from p2psim.vectors import Scratch

Node: TypeAlias = Any  # None, bool, int, float, str, bytes, or a list whose first entry is a tag
Block: TypeAlias = NDArray[np.uint8]  # memory of arrays
MADE = {cls.__name__: cls for cls in (Packet, Tailed, Transfer, ReceiveBuffers, SendBuffers)}
SEQUENCES = {cls.__name__: cls for cls in (list, tuple, set, frozenset, deque)}
# What the fresh object has already, as it must be.
CONSTANT = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, Path, Scratch)
FITS = range(-(2**63), 2**63)


class StateEncoder:
    """Values to nodes; the memory of arrays is not copied: see `blocks`.

    `known` are objects that both runs have, by name: they are referred to, not written.
    """

    def __init__(self, known: dict[str, object]) -> None:
        self.known = {id(thing): name for name, thing in known.items()}
        self.objects: dict[int, int] = {}
        self.spans: list[tuple[int, int, list[Any]]] = []  # addresses from and to, place in a node
        self.alive: list[object] = []  # an id is only good while its owner lives

    def node(self, value: Any, where: str) -> Node:
        """The node of a value; TypeError names what cannot be written and `where` it is."""
        plain = value is None or type(value) in (bool, float, str, bytes)
        if plain or (type(value) is int and value in FITS):
            return value
        if type(value) is int:
            return ["int", str(value)]
        if id(value) in self.known:
            return ["known", self.known[id(value)]]
        if id(value) in self.objects:
            return ["same", self.objects[id(value)]]
        if type(value) in SEQUENCES.values():
            items = [self.node(v, f"{where}[{i}]") for i, v in enumerate(value)]
            return [type(value).__name__, *items]
        if isinstance(value, dict):
            pairs = [
                [self.node(key, where), self.node(inner, f"{where}[{key!r}]")]
                for key, inner in value.items()
            ]
            return ["dict", type(value) is dict, *pairs]
        return self.thing(value, where)

    def thing(self, value: Any, where: str) -> Node:
        """The node of what is neither a plain value nor a container."""
        self.alive.append(value)
        if isinstance(value, np.ndarray | np.generic):
            return self.array(np.asarray(value), isinstance(value, np.generic), where)
        if isinstance(value, np.dtype):
            return ["dtype", value.str]
        if isinstance(value, np.random.Generator):
            state = value.bit_generator.state
            return ["generator", state["bit_generator"], self.node(state, where)]
        if is_tensor(value):
            needs = value.requires_grad and value.is_leaf
            grad = self.node(value.grad, f"{where}.grad") if needs else None
            return ["tensor", self.array(value.detach().numpy(), False, where), needs, grad]
        if isinstance(value, CONSTANT):
            return ["constant"]
        if not hasattr(value, "__dict__"):
            raise TypeError(
                f"{where} holds a {type(value).__name__}, which no checkpoint can hold: keep "
                "numbers, text, arrays, and lists, tuples, dicts and sets of them"
            )
        self.objects[id(value)] = len(self.objects)
        attributes = {k: self.node(v, f"{where}.{k}") for k, v in vars(value).items()}
        return ["object", type(value).__name__, attributes]

    def array(self, array: Any, scalar: bool, where: str) -> Node:
        """An array as a view of memory that others may share with it."""
        if array.dtype.hasobject or array.dtype.names:
            raise TypeError(f"{where} is an array of {array.dtype}: keep plain numbers in arrays")
        self.alive.append(array)
        place = [0, array.__array_interface__["data"][0], list(array.shape), list(array.strides)]
        self.spans.append((*byte_bounds(array), place))
        return ["array", array.dtype.str, scalar, place]

    def blocks(self) -> list[Block]:
        """The memory of all arrays, in one block where they overlap. Once, after the last node.

        The nodes are completed by it: which block an array is in, and where.
        """
        found: list[list[int]] = []
        for low, high, place in sorted(self.spans, key=lambda span: span[:2]):
            if found and low < found[-1][1]:
                found[-1][1] = max(high, found[-1][1])
            else:
                found.append([low, high])
            place[:2] = len(found) - 1, place[1] - found[-1][0]
        return [memory(low, high) for low, high in found]


def memory(low: int, high: int) -> Block:
    """What lies from one address to another."""
    if low == high:
        return np.empty(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
DEPTH = 200  # of containers and objects in each other; Python's own stack ends at about 1000 calls


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
    """Return the array at a place of a block; ValueError or TypeError where it does not fit in."""
    if np.dtype(dtype).hasobject:  # its entries would be addresses
        raise ValueError(f"an array has no entries such as {dtype}")
    match place:
        case [int(block), int(offset), list(shape), list(strides)] if 0 <= block < len(blocks):
            return np.ndarray(tuple(shape), dtype, blocks[block], offset, tuple(strides))
    raise ValueError(f"an array has no place such as {str(place)[:60]}")


class StateDecoder:
    """Nodes back to values, into what the resumed run has made so far."""

    def __init__(self, known: dict[str, object], blocks: list[Block]) -> None:
        self.known, self.blocks = known, blocks
        self.objects: list[Any] = []

    def value(self, node: Node, fresh: Any, where: str) -> Any:
        """The value of a node; `fresh` is what stands in its place now."""
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
        made = dict(zip(keys, values, strict=True))
        if plain:
            return made
        old.clear()  # a defaultdict, say: only its content is state
        old.update(made)
        return old

    def _array(self, fresh: Any, where: str, dtype: str, scalar: bool, place: Node) -> Any:
        made = view(self.blocks, dtype, place)
        return made[()] if scalar else made

    def _dtype(self, fresh: Any, where: str, text: str) -> Any:
        return np.dtype(text)

    def _generator(self, fresh: Any, where: str, name: str, state: Node) -> Any:
        bits = getattr(np.random, name)()
        bits.state = self.value(state, None, where)
        return np.random.Generator(bits)

    def _tensor(self, fresh: Any, where: str, array: Node, needs: bool, grad: Node) -> Any:
        import torch

        made = torch.from_numpy(self.value(array, None, where))
        if isinstance(fresh, torch.nn.Parameter):  # its module and others refer to it
            fresh.data, made = made, fresh
        made.requires_grad_(needs).grad = self.value(grad, None, where)
        return made

    def _constant(self, fresh: Any, where: str) -> Any:
        return fresh

    def _object(self, fresh: Any, where: str, kind: str, attributes: dict[str, Node]) -> Any:
        if kind in MADE:
            fresh = MADE[kind].__new__(MADE[kind])
        elif type(fresh).__name__ != kind:
            raise TypeError(
                f"{where} held a {kind} when the checkpoint was written: an object that is state "
                "must be made by `start` or `bind`, so that a resumed run has it too"
            )
        self.objects.append(fresh)
        old = dict(vars(fresh))
        vars(fresh).clear()
        for name, node in attributes.items():
            vars(fresh)[name] = self.value(node, old.get(name), f"{where}.{name}")
        return fresh


def is_tensor(value: Any) -> bool:
    """Whether this is a torch.Tensor; without torch nothing is."""
    return any((cls.__module__, cls.__name__) == ("torch", "Tensor") for cls in type(value).__mro__)
