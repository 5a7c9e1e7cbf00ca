"""The graph of the peers and its mixing matrices: W_t[i, j] != 0 iff peer j sends to peer i.

A graph is a file: one of the folder `topologies/`, or the user's own, as `.py` with a function
`graph(n, **parameters)`, as `.graphml`, or as `.edgelist`. There a line is `u v [weight]` and `#`
starts a comment; the lines are one-way (u sends to v) if some pair stands there both ways, else
every line is both ways; the key `directed` says it outright. GraphML node names that are not
0..n-1 become ranks in sorted order (numbers within the names by value).
"""

from __future__ import annotations

import ast
import inspect
import re
import site
import sys
import sysconfig
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from p2psim.errors import InputError, suggest
from p2psim.registry import load_file

if TYPE_CHECKING:
    import networkx as nx

Matrix: TypeAlias = NDArray[np.float64]
TOLERANCE = 1e-12  # per peer, on row and column sums
SUFFIXES = (".edgelist", ".graphml", ".py")


@dataclass(frozen=True, eq=False)
class Topology:
    """Who sends to whom in round t, and with which weights; t counts modulo the period."""

    weights: Matrix  # (period, n, n), row = receiver
    name: str
    directed: bool  # some peer sends to one that does not send back
    rule: str
    _cache: dict[tuple[int, int, int], list[int]] = field(default_factory=dict, repr=False)

    @property
    def period(self) -> int:
        """Rounds after which the graph repeats; 1 for a static one."""
        return len(self.weights)

    def at(self, t: int) -> Matrix:
        """W_t, shape (n, n); read-only."""
        matrix: Matrix = self.weights[t % self.period]
        return matrix

    def senders(self, rank: int, t: int = 0) -> list[int]:
        """Who sends to `rank` in round t, itself left out, in rank order; not to be changed."""
        return self._others(rank, t, axis=0)

    def receivers(self, rank: int, t: int = 0) -> list[int]:
        """Whom `rank` sends to in round t, itself left out, in rank order; not to be changed."""
        return self._others(rank, t, axis=1)

    def _others(self, rank: int, t: int, axis: int) -> list[int]:
        key = (rank, t % self.period, axis)
        if key not in self._cache:  # asked every round: a peer's own lists are made once
            linked = np.flatnonzero(self.at(t).take(rank, axis)).tolist()
            self._cache[key] = [other for other in linked if other != rank]
        return self._cache[key]

    @cached_property
    def properties(self) -> frozenset[str]:
        """Which names of `Algorithm.requires` hold, for every W_t of the period."""
        W, tolerance = self.weights, TOLERANCE * self.weights.shape[-1]
        rows = bool(np.abs(W.sum(axis=2) - 1).max() <= tolerance)
        columns = bool(np.abs(W.sum(axis=1) - 1).max() <= tolerance)
        holds = {
            "row-stochastic": rows,
            "column-stochastic": columns,
            "doubly-stochastic": rows and columns,
            "symmetric": bool(np.abs(W - W.transpose(0, 2, 1)).max() <= tolerance),
            "static": self.period == 1,
        }
        return frozenset(name for name, held in holds.items() if held)

    def spectral_gap(self) -> float:
        """1 - r, r the factor per round by which disagreement shrinks in pure mixing.

        With P the product of the period: r = ||P - J||_2^(1/period) if doubly stochastic, else
        |lambda_2(P)|^(1/period).
        """
        product, n = self.weights[0], self.weights.shape[-1]
        for W in self.weights[1:]:
            product = W @ product
        if "doubly-stochastic" in self.properties:
            rate = float(np.linalg.norm(product - 1 / n, 2))
        else:
            rate = float(np.sort(np.abs(np.linalg.eigvals(product)))[-2])
        # The root of a rounding error would look like a rate: (1e-16)^(1/10) = 0.025.
        return 1 - rate ** (1 / self.period) if rate > TOLERANCE else 1.0

    @property
    def edges(self) -> int:
        """Links of the period's union: pairs if undirected, else ordered pairs."""
        union = (self.weights != 0).any(axis=0)
        count = int(union.sum() - union.diagonal().sum())
        return count if self.directed else count // 2

    def diameter(self) -> int:
        """Rounds of passing on, from round 0, until everyone has heard from everyone."""
        n, t = self.weights.shape[-1], 0
        heard = [1 << rank for rank in range(n)]  # sets of ranks as bits: fast at n = 1000
        while any(known != (1 << n) - 1 for known in heard):
            before = list(heard)
            for rank in range(n):
                for sender in self.senders(rank, t):
                    heard[rank] |= before[sender]
            t += 1
        return t


@dataclass(frozen=True)
class Links:
    """One step's graph as arrays; row = receiver."""

    adjacency: NDArray[np.bool_]  # without self-loops
    loops: NDArray[np.bool_]
    weight: Matrix  # NaN where the graph gives none
    samples: NDArray[np.float64]  # per peer


def metropolis(links: Links) -> Matrix:
    """W_ij = 1 / (1 + max(deg_i, deg_j)), W_ii = 1 - sum_j W_ij (Metropolis-Hastings)."""
    degree = links.adjacency.sum(axis=1)
    return _fill(links.adjacency / (1.0 + np.maximum.outer(degree, degree)))


def lazy(links: Links) -> Matrix:
    """W = (I + metropolis) / 2: no negative eigenvalue."""
    return (np.eye(len(links.adjacency)) + metropolis(links)) / 2


def max_degree(links: Links) -> Matrix:
    """W_ij = 1 / (1 + Delta), Delta the largest degree; W_ii = 1 - deg_i / (1 + Delta)."""
    return _fill(links.adjacency / (1.0 + links.adjacency.sum(axis=1).max()))


def uniform_neighbor(links: Links) -> Matrix:
    """W_ij = 1 / (indeg_i + 1), self included: row-stochastic."""
    own = links.adjacency + np.eye(len(links.adjacency))
    return own / own.sum(axis=1, keepdims=True)


def out_degree(links: Links) -> Matrix:
    """W_ij = 1 / (outdeg_j + 1), self included: column-stochastic (push-sum)."""
    own = links.adjacency + np.eye(len(links.adjacency))
    return own / own.sum(axis=0, keepdims=True)


def data_size(links: Links) -> Matrix:
    """alpha_kj = n_j / (n_k + sum_{i in N(k)} n_i), j in N(k) or k: row-stochastic.

    Pranav & Moura, "Peer-to-Peer Learning+Consensus with Non-IID Data" (2023).
    """
    if not (links.samples > 0).all():
        raise InputError(
            f"topology.weights: 'data-size' needs samples at every peer, but peer "
            f"{links.samples.argmin()} has none; change data.partition or the weights"
        )
    own = (links.adjacency + np.eye(len(links.adjacency))) * links.samples
    return own / own.sum(axis=1, keepdims=True)


def edges(links: Links) -> Matrix:
    """W_ij = the weight of edge j -> i; W_ii = the self-loop's weight, else 1 - sum_j W_ij."""
    bad = np.argwhere(links.adjacency & ~((links.weight > 0) & np.isfinite(links.weight)))
    for receiver, sender in bad:
        weight = links.weight[receiver, sender]
        given = "no weight" if np.isnan(weight) else f"the weight {weight}"
        raise InputError(
            f"topology.weights: 'edges' needs a number above 0 on every edge, but edge "
            f"{sender} -> {receiver} has {given}; give one or choose another rule"
        )
    W = np.where(links.adjacency, links.weight, 0.0)
    loop, total = links.weight.diagonal(), W.sum(axis=1)
    own = np.where(np.isnan(loop), 1 - total, loop)
    own[np.abs(own) <= TOLERANCE * len(own)] = 0  # 1 - ten times 0.1 is not quite 0
    for rank in np.flatnonzero(~((own >= 0) & np.isfinite(own))):
        raise InputError(
            f"topology.weights: peer {rank} would keep the weight {own[rank]:.6g} for itself "
            f"(row {rank} sums to {total[rank]:.6g} without it); it must be 0 or more: lower the "
            f"weights of the edges into {rank} or give a self-loop"
        )
    np.fill_diagonal(W, own)
    return W


def _fill(W: Matrix) -> Matrix:
    np.fill_diagonal(W, 1 - W.sum(axis=1))
    return W


Rule: TypeAlias = Callable[[Links], Matrix]
UNDIRECTED: dict[str, Rule] = {"metropolis": metropolis, "max-degree": max_degree, "lazy": lazy}
RULES: dict[str, Rule] = {
    **UNDIRECTED,
    "uniform-neighbor": uniform_neighbor,
    "out-degree": out_degree,
    "data-size": data_size,
    "edges": edges,
}


def build(
    spec: dict[str, Any], peers: int, seed: int, folder: Path, samples: Sequence[int]
) -> Topology:
    """The topology of the experiment file's table `spec`; files are relative to `folder`.

    `samples[i]` is the number of training samples of peer i ("data-size" only). InputError for
    whatever is wrong with the table, the file or the graph.
    """
    parameters = dict(spec)
    rule = parameters.pop("weights", None)
    if rule is not None and rule not in RULES:
        raise InputError(f"topology.weights: unknown rule {rule!r}; {suggest(str(rule), RULES)}")
    name, graph = _find(parameters.pop("name", None), parameters.pop("file", None), folder)
    steps = [_links(step, peers, samples) for step in _draw(graph, parameters, peers, seed)]
    _check_connected(np.logical_or.reduce([links.adjacency for links in steps]))
    one_way = np.concatenate([np.argwhere(s.adjacency & ~s.adjacency.T) for s in steps])
    directed = len(one_way) > 0
    rule = rule or ("out-degree" if directed else "metropolis")
    _check_rule(rule, one_way, steps)
    weights = np.stack([RULES[rule](links) for links in steps])
    weights.setflags(write=False)
    topology = Topology(weights, name, directed, rule)
    if rule == "edges":
        _check_stochastic(topology)
    return topology


def available() -> dict[str, tuple[str, str]]:
    """Parameters with defaults, and first docstring line, of every file of `topologies/`."""
    return {name: _describe(path) for name, path in sorted(_files().items())}


def _files() -> dict[str, Path]:
    """The files of `topologies/` by name: beside the package, or where pip put them."""
    installed = [sysconfig.get_path("data"), sys.prefix, site.getuserbase()]
    checkout = Path(__file__).parent.parent / "topologies"
    for folder in [checkout, *(Path(base, "share/p2psim/topologies") for base in installed)]:
        if (folder / "ring.py").is_file():  # else some other package's folder of that name
            return {path.stem: path for path in folder.iterdir() if path.suffix in SUFFIXES}
    return {}


def _describe(path: Path) -> tuple[str, str]:
    # Read, not imported: `p2psim list` must not wait for networkx.
    if path.suffix != ".py":
        return "", path.name
    module = ast.parse(path.read_text(encoding="utf-8"))
    summary = (ast.get_docstring(module) or "").partition("\n")[0]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == "graph":
            parameters = ast.unparse(node.args).partition(", ")[2].replace("=", " = ")
            return re.sub(r"seed: int = \d+", "seed: int = the experiment's", parameters), summary
    return "", summary


def _find(name: Any, file: Any, folder: Path) -> tuple[str, Callable[..., Any]]:
    """The topology's name and the function that makes its graph."""
    if (name is None) == (file is None):
        raise InputError(
            "topology: give either name = '...' (see `p2psim list topology`) or file = '...', "
            f"not {'both' if name else 'neither'}"
        )
    if file is None:
        known = _files()
        if name not in known:
            own = "or give a file of your own: file = 'my-graph.edgelist'"
            raise InputError(
                f"topology.name: unknown topology {name!r}; {suggest(str(name), known)}; {own}"
            )
        return str(name), _load(known[name])
    path = folder / str(file)
    if path.suffix not in SUFFIXES:
        raise InputError(f"topology.file: {file!r} must end in one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"topology.file: there is no file {str(path)!r}")
    return path.name, _load(path)


def _load(path: Path) -> Callable[..., Any]:
    if path.suffix == ".edgelist":
        return _read_edge_list(path)
    if path.suffix == ".graphml":
        return _read_graphml(path)
    graph = getattr(load_file(path), "graph", None)
    if not callable(graph):
        raise InputError(f"topology.file: {path.name} defines no function graph(n, ...)")
    made: Callable[..., Any] = graph
    return made


def _read_edge_list(path: Path) -> Callable[..., Any]:
    lines: dict[tuple[int, int], dict[str, float]] = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            edge, weight = _read_edge(words, f"topology.file: {path.name} line {number}")
            if edge in lines:
                raise InputError(f"topology.file: {path.name} line {number} repeats an edge")
            lines[edge] = weight

    def graph(n: int, directed: bool | None = None) -> Any:
        import networkx as nx

        back = {(v, u): weight for (u, v), weight in lines.items()}
        if directed is None:
            directed = any(u != v and (u, v) in back for u, v in lines)
        if not directed and any(lines.get(edge, weight) != weight for edge, weight in back.items()):
            raise ValueError("an edge has two weights: give directed = true")
        made = nx.DiGraph() if directed else nx.Graph()
        made.add_edges_from((u, v, weight) for (u, v), weight in lines.items())
        return made

    return graph


def _read_edge(words: list[str], where: str) -> tuple[tuple[int, int], dict[str, float]]:
    try:
        u, v = int(words[0]), int(words[1])
        weight = {"weight": float(words[2])} if len(words) > 2 else {}
    except (ValueError, IndexError):
        words = words + [""] * 3  # falls through to the message
        u = v = -1
        weight = {}
    if len(words) > 3 or min(u, v) < 0:
        raise InputError(
            f"{where}: {' '.join(words).strip()!r} is no edge; a line is 'u v' or 'u v weight', "
            f"u and v from 0 to peers - 1"
        )
    if weight and not 0 <= weight["weight"] < np.inf or (u != v and weight.get("weight") == 0):
        raise InputError(f"{where}: the weight {words[2]} must be above 0 (self-loop: 0 or more)")
    return (u, v), weight


def _read_graphml(path: Path) -> Callable[..., Any]:
    import networkx as nx

    try:
        made = nx.read_graphml(path)
    except Exception as error:  # the XML parser's message names line and column
        raise InputError(f"topology.file: {path.name} is no GraphML file: {error}") from error

    def by_value(name: str) -> list[str | int]:
        return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]

    ranks = {name: rank for rank, name in enumerate(sorted(made, key=by_value))}

    def graph(n: int) -> Any:
        return nx.relabel_nodes(made, ranks)

    return graph


def _draw(graph: Callable[..., Any], given: dict[str, Any], peers: int, seed: int) -> list[Any]:
    """Call `graph` with its parameters; one networkx graph per step of the period."""
    import networkx as nx

    arguments = _arguments(graph, given, seed)
    try:
        made = graph(peers, **arguments)
    except (ValueError, nx.NetworkXException) as error:
        raise InputError(f"topology: {error}") from error
    except Exception as error:
        raise InputError(f"topology: graph({peers}, ...) failed: {error!r}") from error
    steps = list(made) if isinstance(made, list | tuple) else [made]
    if not steps or not all(isinstance(step, nx.Graph) for step in steps):
        raise InputError(f"topology: graph() must return networkx graphs, not {made!r}")
    return steps


def _arguments(graph: Callable[..., Any], given: dict[str, Any], seed: int) -> dict[str, Any]:
    declared = dict(list(inspect.signature(graph).parameters.items())[1:])  # n comes first
    for key in given:
        if key not in declared:
            known = suggest(key, [*declared, "name", "file", "weights"])
            raise InputError(f"topology.{key}: unknown parameter; {known}")
    hints = typing.get_type_hints(graph)
    values = {key: _convert(key, value, hints.get(key, Any)) for key, value in given.items()}
    if "seed" in declared:
        values.setdefault("seed", seed)
    for key, parameter in declared.items():
        if key not in values and parameter.default is parameter.empty:
            raise InputError(f"topology.{key}: the graph needs this parameter, give '{parameter}'")
    return values


def _convert(key: str, value: Any, annotation: Any) -> Any:
    try:
        return msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"topology.{key} = {value!r}: {error}; correct the value") from error


def _links(graph: nx.Graph, peers: int, samples: Sequence[int]) -> Links:
    _check_nodes(graph, peers)
    adjacency, weight = np.zeros((peers, peers), bool), np.full((peers, peers), np.nan)
    arcs = list(graph.edges(data="weight"))
    u, v = (np.array([arc[end] for arc in arcs], int) for end in (0, 1))
    try:
        given = np.array([np.nan if arc[2] is None else float(arc[2]) for arc in arcs])
    except (TypeError, ValueError) as error:
        raise InputError(f"topology: an edge's weight is no number: {error}") from error
    for receiver, sender in [(v, u)] if graph.is_directed() else [(v, u), (u, v)]:
        adjacency[receiver, sender], weight[receiver, sender] = True, given
    loops = adjacency.diagonal().copy()
    np.fill_diagonal(adjacency, False)
    return Links(adjacency, loops, weight, np.array(samples, np.float64))


def _check_nodes(graph: nx.Graph, peers: int) -> None:
    if len(graph) != peers:
        raise InputError(
            f"topology: the graph has {len(graph)} nodes but peers = {peers}: "
            f"set peers = {len(graph)} or change the graph"
        )
    if set(graph) != set(range(peers)):
        stray = next(node for node in graph if node not in range(peers))
        raise InputError(
            f"topology: the graph has a node {stray!r}, but its {peers} nodes must be 0 to "
            f"{peers - 1}: number them so"
        )
    if graph.is_multigraph():
        raise InputError("topology: the graph has parallel edges: keep one of each")


def _check_connected(union: NDArray[np.bool_]) -> None:
    """Everyone must reach everyone: both ways from peer 0 is enough."""
    for links, text in ((union.T, "peer 0 does not reach"), (union, "peer 0 is not reached from")):
        seen = front = np.arange(len(union)) == 0
        while front.any():
            front = links[front].any(axis=0) & ~seen
            seen = seen | front
        if not seen.all():
            lost = ", ".join(map(str, np.flatnonzero(~seen)[:5]))
            kind = "connected" if (union == union.T).all() else "strongly connected"
            raise InputError(f"topology: the graph is not {kind}: {text} {lost}; add edges")


def _check_rule(rule: str, one_way: NDArray[np.int64], steps: list[Links]) -> None:
    if rule in UNDIRECTED and len(one_way):
        receiver, sender = one_way[0]
        allowed = ", ".join(sorted(set(RULES) - set(UNDIRECTED)))
        raise InputError(
            f"topology.weights: {rule!r} needs an undirected graph, but {sender} sends to "
            f"{receiver} and {receiver} not to {sender}; allowed on a directed graph: {allowed}"
        )
    looped = np.flatnonzero(np.logical_or.reduce([links.loops for links in steps]))
    if rule != "edges" and len(looped):
        raise InputError(
            f"topology: the graph has an edge from {looped[0]} to itself, but {rule!r} sets own "
            f"weights by itself: remove self-loops, or set weights = 'edges'"
        )


def _check_stochastic(topology: Topology) -> None:
    if topology.properties & {"row-stochastic", "column-stochastic"}:
        return
    sums = topology.weights.sum(axis=2)
    t, rank = np.unravel_index(np.abs(sums - 1).argmax(), sums.shape)
    raise InputError(
        f"topology.weights: with 'edges' every row (or every column) of W must sum to 1, but row "
        f"{rank} sums to {sums[t, rank]:.12g}: correct the weights into {rank}, or leave out the "
        f"self-loops and what is missing becomes the own weight"
    )
