"""Graph of the peers and its mixing matrices: W_t[i, j] != 0 iff peer j sends to peer i.

A graph is a file, either of the folder `topologies/` or of the user:
- `.py` defines a function `graph(n, **parameters)`.
- `.edgelist` has lines `u v [weight [latency bandwidth]]`; `#` starts a comment. The graph is
  directed (u sends to v) if some pair of peers occurs in both orders, else undirected; the key
  `directed` of the experiment file overrides this.
- `.graphml`: node names become ranks in sorted order, in which numbers within names count by
  value.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from p2psim.errors import InputError, quoted, suggest
from p2psim.network.mixing import DIRECTED, RULES, TOLERANCE, UNDIRECTED, GraphArrays, Matrix
from p2psim.registry import load_file

NUMBER = r"\s+((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
EDGE = re.compile(rf"(\d{{1,9}})\s+(\d{{1,9}})(?:{NUMBER}(?:{NUMBER}{NUMBER})?)?")
LINK = ("latency", "bandwidth")  # attributes that an edge may have beside its weight


@dataclass(frozen=True, eq=False)
class Topology:
    """Directed graph and mixing matrix of each round t; t counts modulo the period."""

    weights: Matrix  # (period, n, n), row = receiver
    name: str
    directed: bool  # some edge has no edge in the other direction
    rule: str
    links: dict[str, Matrix]  # by name in LINK: (n, n), row = receiver; NaN: edge without it
    _cache: dict[tuple[int, int, int], list[int]] = field(default_factory=dict, repr=False)

    @property
    def period(self) -> int:
        """Number of rounds after which the graph repeats; 1 for a static graph."""
        return len(self.weights)

    def at(self, t: int) -> Matrix:
        """Return W_t, shape (n, n); read-only."""
        return np.asarray(self.weights[t % self.period])

    def senders(self, rank: int, t: int = 0) -> list[int]:
        """Return the in-neighbors of `rank` in round t without itself, in rank order.

        The list is cached: do not change it.
        """
        return self._others(rank, t, axis=0)

    def receivers(self, rank: int, t: int = 0) -> list[int]:
        """Return the out-neighbors of `rank` in round t without itself, in rank order.

        The list is cached: do not change it.
        """
        return self._others(rank, t, axis=1)

    def _others(self, rank: int, t: int, axis: int) -> list[int]:
        key = (rank, t % self.period, axis)
        if key not in self._cache:  # every peer reads its lists in every round
            linked = np.flatnonzero(self.at(t).take(rank, axis)).tolist()
            self._cache[key] = [other for other in linked if other != rank]
        return self._cache[key]

    @functools.cached_property
    def properties(self) -> frozenset[str]:
        """Names of `Algorithm.requires` that hold for every W_t of the period."""
        W, tolerance = self.weights, TOLERANCE * self.weights.shape[-1]
        errors = {"row-stochastic": W.sum(axis=2) - 1, "column-stochastic": W.sum(axis=1) - 1}
        errors["doubly-stochastic"] = np.hstack(list(errors.values()))
        errors["symmetric"] = W - W.transpose(0, 2, 1)
        names = {name for name, error in errors.items() if np.abs(error).max() <= tolerance}
        return frozenset(names | ({"static"} if self.period == 1 else set()))

    def spectral_gap(self) -> float:
        """Return 1 - r, with r the factor per round by which disagreement shrinks in pure mixing.

        With P the product of the period: r = ||P - J||_2^(1/period) if doubly stochastic, else
        |lambda_2(P)|^(1/period).
        """
        product = functools.reduce(lambda past, W: W @ past, self.weights)
        if {"symmetric", "static"} <= self.properties:  # by eigenvalues: much faster
            rate = float(np.abs(np.linalg.eigvalsh(product - 1 / len(product))).max())
        elif "doubly-stochastic" in self.properties:
            rate = float(np.linalg.norm(product - 1 / len(product), 2))
        else:
            rate = float(np.sort(np.abs(np.linalg.eigvals(product)))[-2])
        # The root of a rounding error would look like a rate: (1e-16)^(1/10) = 0.025.
        return 1 - rate ** (1 / self.period) if rate > TOLERANCE else 1.0

    @property
    def edges(self) -> int:
        """Number of edges in the union of the period: pairs if undirected, else ordered pairs."""
        union = (self.weights != 0).any(axis=0)
        count = int(union.sum() - union.diagonal().sum())
        return count if self.directed else count // 2

    def diameter(self) -> int:
        """Return the rounds of flooding, from round 0, until each peer has information from all."""
        n, t = self.weights.shape[-1], 0
        origins = [1 << rank for rank in range(n)]  # sets of ranks as bits: fast at n = 1000
        while any(ranks != (1 << n) - 1 for ranks in origins):
            before = list(origins)
            for rank in range(n):
                for sender in self.senders(rank, t):
                    origins[rank] |= before[sender]
            t += 1
        return t


def build(
    spec: dict[str, Any], peers: int, seed: int, folder: Path, samples: Sequence[int]
) -> Topology:
    """Build the topology of the experiment file's table `spec`.

    Paths of files are relative to `folder`. `samples[i]` is the number of training samples of
    peer i, which only the rule "data-size" uses. Raises InputError for a user's mistake.
    """
    parameters = dict(spec)
    rule = parameters.pop("weights", None)
    if rule is not None and str(rule) not in RULES:
        raise InputError(
            f"topology.weights: unknown rule {quoted(rule)}; {suggest(str(rule), RULES)}"
        )
    path = _find(parameters.pop("name", None), parameters.pop("file", None), folder)
    graphs = _draw(READERS[path.suffix](path), parameters, peers, seed)
    steps = [_arrays(graph, peers, samples) for graph in graphs]
    _check_connected(np.max([step.adjacency for step in steps], axis=0) > 0)
    one_way = np.argwhere([step.adjacency > step.adjacency.T for step in steps])
    # metropolis needs an undirected graph; out-degree is the rule of push-sum methods.
    rule = rule or ("out-degree" if len(one_way) else "metropolis")
    _check_rule(rule, one_way, steps)
    weights = np.stack([RULES[rule](step) for step in steps])
    weights.setflags(write=False)
    name = path.name if "file" in spec else path.stem
    return Topology(weights, name, len(one_way) > 0, rule, _link_matrices(graphs))


def available() -> dict[str, tuple[str, str]]:
    """Return (parameters with defaults, first docstring line) of every file of `topologies/`."""
    return {name: _describe(path) for name, path in sorted(_files().items())}


def _files() -> dict[str, Path]:
    """Return the files of `topologies/` by name, from the checkout or from pip's data folder."""
    installed = [sysconfig.get_path("data"), sys.prefix, site.getuserbase()]
    checkout = Path(__file__).parents[2] / "topologies"
    for folder in [checkout, *(Path(base, "share/p2psim/topologies") for base in installed)]:
        if (folder / "ring.py").is_file():  # otherwise the folder of another package
            return {path.stem: path for path in folder.iterdir() if path.suffix in READERS}
    return {}


def _describe(path: Path) -> tuple[str, str]:
    """Return the parameters of `graph` with defaults, and the file's first docstring line."""
    # The file is parsed, not imported, because importing networkx would slow `p2psim list` down.
    module = ast.parse(path.read_text(encoding="utf-8") if path.suffix == ".py" else "")
    summary = (ast.get_docstring(module) or path.name).partition("\n")[0]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == "graph":
            parameters = ast.unparse(node.args).partition(", ")[2].replace("=", " = ")
            return re.sub(r"seed: int = \d+", "seed: int = the experiment's", parameters), summary
    return "", summary


def _find(name: Any, file: Any, folder: Path) -> Path:
    """Return the path of the graph's file; InputError unless either name or file is set."""
    if (name is None) == (file is None):
        raise InputError("topology: give either a name (see `p2psim list topology`) or a file")
    known = _files()
    if file is None and str(name) not in known:
        allowed = f"{suggest(str(name), known)}; or give a file = 'my-graph.edgelist' of your own"
        raise InputError(f"topology.name: unknown topology {quoted(name)}; {allowed}")
    path = known[str(name)] if file is None else folder / str(file)
    if path.suffix not in READERS:
        allowed = f"give one whose name ends in {', '.join(READERS)}"
        raise InputError(f"topology.file: {str(path)!r} is of no known kind; {allowed}")
    if not path.is_file():
        raise InputError(f"topology.file: there is no file {str(path)!r}; correct the path")
    return path


def _python(path: Path) -> Callable[..., Any]:
    """Return the function `graph` of a Python file."""
    graph: Callable[..., Any] | None = getattr(
        load_file(path, of_user=path not in _files().values()), "graph", None
    )
    if graph is None:
        raise InputError(f"topology.file: {path.name} defines no graph(n, ...); add this function")
    return graph


def _edge_list(path: Path) -> Callable[..., Any]:
    """Read an edge list; the function that is returned builds its graph."""
    lines: dict[tuple[int, int], dict[str, float]] = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        match = EDGE.fullmatch(text)
        if not text:
            continue
        edge = (int(match[1]), int(match[2])) if match else None
        if not match or not edge or edge in lines:
            form = "write each edge once: 'u v [weight [latency bandwidth]]', with ranks from 0"
            why = f"is no edge or a repeated one; {form}"
            raise InputError(f"topology.file: {path.name} line {number}: {quoted(text)} {why}")
        fields = zip(("weight", *LINK), match.groups()[2:], strict=True)
        lines[edge] = {name: float(value) for name, value in fields if value}

    def graph(n: int, directed: bool | None = None) -> Any:
        import networkx as nx

        reverse = {(v, u): attributes for (u, v), attributes in lines.items()}
        if directed is None:
            directed = any(u != v and (u, v) in reverse for u, v in lines)
        if not directed and any(lines.get(edge, data) != data for edge, data in reverse.items()):
            raise ValueError("an edge has two weights or two links: give directed = true")
        network = nx.DiGraph() if directed else nx.Graph()
        network.add_edges_from((u, v, attributes) for (u, v), attributes in lines.items())
        return network

    return graph


def _graphml(path: Path) -> Callable[..., Any]:
    """Read a GraphML file; the function that is returned gives its graph on ranks."""
    import networkx as nx

    try:
        named = nx.read_graphml(path)
    except Exception as error:  # the XML parser's message names line and column
        raise InputError(f"topology.file: {path.name} is no GraphML file: {error}") from error

    def by_value(name: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    ranks = {name: rank for rank, name in enumerate(sorted(named, key=by_value))}
    return lambda n: nx.relabel_nodes(named, ranks)


Reader: TypeAlias = Callable[[Path], Callable[..., Any]]
READERS: dict[str, Reader] = {".edgelist": _edge_list, ".graphml": _graphml, ".py": _python}


def _draw(graph: Callable[..., Any], table: dict[str, Any], peers: int, seed: int) -> list[Any]:
    """Call `graph` with the table's parameters; return a networkx graph per step of the period."""
    import networkx as nx

    arguments = _arguments(graph, table, seed)
    try:
        result = graph(peers, **arguments)
    except Exception as error:
        # A ValueError reports unsuitable parameters; any other error is a defect of the file.
        refused = isinstance(error, ValueError | nx.NetworkXException)
        reason = error if refused else f"graph() failed: {error!r}"
        raise InputError(f"topology: {reason}") from error
    steps = list(result) if isinstance(result, list | tuple) else [result]
    if not steps or not all(isinstance(step, nx.Graph) for step in steps):
        raise InputError(f"topology: graph() must return networkx graphs, not {result!r}")
    return steps


def _arguments(graph: Callable[..., Any], table: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the keyword arguments for `graph`, checked against its signature and annotations.

    The experiment's seed is the default of a parameter `seed`.
    """
    declared = dict(list(inspect.signature(graph).parameters.items())[1:])  # n comes first
    values = {"seed": seed} if "seed" in declared else {}
    for key, value in table.items():
        if key not in declared:
            known = suggest(key, [*declared, "name", "file", "weights"])
            raise InputError(f"topology.{key}: unknown parameter; {known}")
        try:
            values[key] = msgspec.convert(value, get_type_hints(graph).get(key, Any))
        except (msgspec.ValidationError, NameError, TypeError) as error:
            raise InputError(f"topology.{key} = {quoted(value)}: {error}; correct it") from error
    for key, parameter in declared.items():
        if key not in values and parameter.default is parameter.empty:
            raise InputError(f"topology.{key}: the graph needs this parameter, give '{parameter}'")
    return values


def _arrays(graph: Any, peers: int, samples: Sequence[int]) -> GraphArrays:
    """Convert a networkx graph to arrays; InputError unless its nodes are the ranks."""
    _check_nodes(graph, peers)
    adjacency, weight = _edge_matrix(graph, None), _edge_matrix(graph, "weight")
    # The rules set W_ii themselves, except "edges", which reads the weights of self-loops.
    loops = adjacency.diagonal() > 0
    np.fill_diagonal(adjacency, 0)
    return GraphArrays(adjacency, loops, weight, np.array(samples, float))


def _edge_matrix(graph: Any, name: str | None) -> Matrix:
    """Return the edges' attribute `name` as an (n, n) matrix, row = receiver; NaN where missing.

    Without a name, return the adjacency: 1 for every edge, else 0.
    """
    values = np.full((len(graph), len(graph)), np.nan if name else 0.0)
    if name and not _has_attribute(graph, name):
        return values
    arcs = list(graph.edges(data=name, default=np.nan) if name else graph.edges)
    u, v = (np.array([arc[end] for arc in arcs], int) for end in (0, 1))
    try:
        data = np.array([arc[2] for arc in arcs], float) if name else 1.0
    except (TypeError, ValueError) as error:
        raise InputError(f"topology: an edge's {name} is no number: {error}") from error
    for receiver, sender in [(v, u)] if graph.is_directed() else [(v, u), (u, v)]:
        values[receiver, sender] = data
    return values


def _has_attribute(graph: Any, name: str) -> bool:
    """Return True if some edge has an attribute of this name."""
    return any(name in data for *_, data in graph.edges(data=True))


def _link_matrices(graphs: Sequence[Any]) -> dict[str, Matrix]:
    """Return the latency and bandwidth of edges by name, as far as edges have them.

    Raises InputError for numbers out of range, or for edges whose numbers change from step to
    step: link models take one number per edge.
    """
    matrices = {}
    for name in LINK:
        if not any(_has_attribute(graph, name) for graph in graphs):
            continue
        values = np.array([_edge_matrix(graph, name) for graph in graphs])
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        least = f">= 0, not {np.nanmin(low)}" if (low < 0).any() else ""
        if name == "bandwidth" and (low <= 0).any():
            least = f"> 0, not {np.nanmin(low)}"
        endless = "a finite number, not inf" if np.isinf(high).any() else ""
        if least or endless or (low < high).any():
            cure = least or endless or "the same number in every step"
            raise InputError(f"topology: give an edge's {name} as {cure}")
        matrices[name] = low
    return matrices


def _check_nodes(graph: Any, peers: int) -> None:
    """Check that nodes are the ranks 0 to peers - 1, without parallel edges; else InputError."""
    has = f"topology: the graph has {len(graph)} nodes"
    if len(graph) != peers:
        raise InputError(f"{has} but peers = {peers}: set peers = {len(graph)} or change the graph")
    for stray in set(graph) - set(range(peers)):
        raise InputError(f"{has}, one of them {stray!r}: number them 0 to {peers - 1}")
    if graph.is_multigraph():
        raise InputError(f"{has} and parallel edges: keep one of each")


def _check_connected(union: NDArray[np.bool_]) -> None:
    """Check that the period's union is strongly connected; InputError otherwise.

    It is if peer 0 reaches all peers and all peers reach peer 0.
    """
    for edges, text in ((union.T, "peer 0 does not reach"), (union, "peer 0 is not reached from")):
        reached = front = np.arange(len(union)) == 0
        while front.any():
            front = edges[front].any(axis=0) & ~reached
            reached = reached | front
        if not reached.all():
            ranks = ", ".join(map(str, np.flatnonzero(~reached)[:5]))
            kind = "connected" if (union == union.T).all() else "strongly connected"
            raise InputError(f"topology: the graph is not {kind}: {text} {ranks}; add edges")


def _check_rule(rule: str, one_way: NDArray[np.int64], steps: list[GraphArrays]) -> None:
    """Check that the rule suits one-way edges, (step, receiver, sender), and self-loops."""
    for _, i, j in one_way if rule in UNDIRECTED else ():
        why = f"needs an undirected graph, but {j} sends to {i} and {i} not to {j}"
        raise InputError(f"topology.weights: {rule!r} {why}; allowed here: {', '.join(DIRECTED)}")
    for _, i in np.argwhere([step.loops for step in steps]) if rule != "edges" else ():
        why = f"but {rule!r} sets W_ii by itself: remove self-loops, or set weights = 'edges'"
        raise InputError(f"topology: the graph has an edge from {i} to itself, {why}")
