"""The graph of the peers and its mixing matrices: W_t[i, j] != 0 iff peer j sends to peer i.

A graph is a file: one of the folder `topologies/`, or the user's own, as `.py` with a function
`graph(n, **parameters)`, as `.graphml`, or as `.edgelist`. There a line is
`u v [weight [latency bandwidth]]` and `#` starts a comment; the lines are one-way (u sends to v)
if some pair stands there both ways, else every line is both ways; the key `directed` says it
outright. GraphML node names that are not 0..n-1 become ranks in sorted order (numbers within the
names by value).
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

from p2psim.errors import InputError, suggest
from p2psim.network.mixing import DIRECTED, RULES, TOLERANCE, UNDIRECTED, GraphArrays, Matrix
from p2psim.registry import load_file

NUMBER = r"\s+((?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
EDGE = re.compile(rf"(\d+)\s+(\d+)(?:{NUMBER}(?:{NUMBER}{NUMBER})?)?")
LINK = ("latency", "bandwidth")  # what an edge may say of itself beside its weight


@dataclass(frozen=True, eq=False)
class Topology:
    """Who sends to whom in round t, and with which weights; t counts modulo the period."""

    weights: Matrix  # (period, n, n), row = receiver
    name: str
    directed: bool  # some peer sends to one that does not send back
    rule: str
    links: dict[str, Matrix]  # what edges give of LINK: (n, n), row = receiver; NaN: not given
    _cache: dict[tuple[int, int, int], list[int]] = field(default_factory=dict, repr=False)

    @property
    def period(self) -> int:
        """Rounds after which the graph repeats; 1 for a static one."""
        return len(self.weights)

    def at(self, t: int) -> Matrix:
        """W_t, shape (n, n); read-only."""
        return np.asarray(self.weights[t % self.period])

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

    @functools.cached_property
    def properties(self) -> frozenset[str]:
        """Which names of `Algorithm.requires` hold, for every W_t of the period."""
        W, tolerance = self.weights, TOLERANCE * self.weights.shape[-1]
        off = {"row-stochastic": W.sum(axis=2) - 1, "column-stochastic": W.sum(axis=1) - 1}
        off["doubly-stochastic"] = np.hstack(list(off.values()))
        off["symmetric"] = W - W.transpose(0, 2, 1)
        held = {name for name, error in off.items() if np.abs(error).max() <= tolerance}
        return frozenset(held | ({"static"} if self.period == 1 else set()))

    def spectral_gap(self) -> float:
        """1 - r, r the factor per round by which disagreement shrinks in pure mixing.

        With P the product of the period: r = ||P - J||_2^(1/period) if doubly stochastic, else
        |lambda_2(P)|^(1/period).
        """
        product = functools.reduce(lambda past, W: W @ past, self.weights)
        if "doubly-stochastic" in self.properties:
            rate = float(np.linalg.norm(product - 1 / len(product), 2))
        else:
            rate = float(np.sort(np.abs(np.linalg.eigvals(product)))[-2])
        # The root of a rounding error would look like a rate: (1e-16)^(1/10) = 0.025.
        return 1 - rate ** (1 / self.period) if rate > TOLERANCE else 1.0

    @property
    def edges(self) -> int:
        """Edges of the period's union: pairs if undirected, else ordered pairs."""
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


def build(
    spec: dict[str, Any], peers: int, seed: int, folder: Path, samples: Sequence[int]
) -> Topology:
    """The topology of the experiment file's table `spec`; files are relative to `folder`.

    `samples[i]`: training samples of peer i ("data-size" only). InputError for a user's mistake.
    """
    parameters = dict(spec)
    rule = parameters.pop("weights", None)
    if rule is not None and str(rule) not in RULES:
        raise InputError(f"topology.weights: unknown rule {rule!r}; {suggest(str(rule), RULES)}")
    path = _find(parameters.pop("name", None), parameters.pop("file", None), folder)
    drawn = _draw(READERS[path.suffix](path), parameters, peers, seed)
    steps = [_links(step, peers, samples) for step in drawn]
    _check_connected(np.max([links.adjacency for links in steps], axis=0) > 0)
    one_way = np.argwhere([links.adjacency > links.adjacency.T for links in steps])
    rule = rule or ("out-degree" if len(one_way) else "metropolis")
    _check_rule(rule, one_way, steps)
    weights = np.stack([RULES[rule](links) for links in steps])
    weights.setflags(write=False)
    name = path.name if "file" in spec else path.stem
    return Topology(weights, name, len(one_way) > 0, rule, _transfer(drawn))


def available() -> dict[str, tuple[str, str]]:
    """Parameters with defaults, and first docstring line, of every file of `topologies/`."""
    return {name: _describe(path) for name, path in sorted(_files().items())}


def _files() -> dict[str, Path]:
    """The files of `topologies/` by name: beside the package, or where pip put them."""
    installed = [sysconfig.get_path("data"), sys.prefix, site.getuserbase()]
    checkout = Path(__file__).parents[2] / "topologies"
    for folder in [checkout, *(Path(base, "share/p2psim/topologies") for base in installed)]:
        if (folder / "ring.py").is_file():  # else some other package's folder of that name
            return {path.stem: path for path in folder.iterdir() if path.suffix in READERS}
    return {}


def _describe(path: Path) -> tuple[str, str]:
    # Read, not imported: `p2psim list` must not wait for networkx.
    module = ast.parse(path.read_text(encoding="utf-8") if path.suffix == ".py" else "")
    summary = (ast.get_docstring(module) or path.name).partition("\n")[0]
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == "graph":
            parameters = ast.unparse(node.args).partition(", ")[2].replace("=", " = ")
            return re.sub(r"seed: int = \d+", "seed: int = the experiment's", parameters), summary
    return "", summary


def _find(name: Any, file: Any, folder: Path) -> Path:
    """The file of the graph that the experiment names."""
    if (name is None) == (file is None):
        raise InputError("topology: give either a name (see `p2psim list topology`) or a file")
    known = _files()
    if file is None and str(name) not in known:
        allowed = f"{suggest(str(name), known)}; or give a file = 'my-graph.edgelist' of your own"
        raise InputError(f"topology.name: unknown topology {name!r}; {allowed}")
    path = known[str(name)] if file is None else folder / str(file)
    if path.suffix not in READERS:
        ends = f"give one whose name ends in {', '.join(READERS)}"
        raise InputError(f"topology.file: {str(path)!r} is of no known kind; {ends}")
    if not path.is_file():
        raise InputError(f"topology.file: there is no file {str(path)!r}; correct the path")
    return path


def _python(path: Path) -> Callable[..., Any]:
    graph: Callable[..., Any] | None = getattr(load_file(path), "graph", None)
    if graph is None:
        raise InputError(f"topology.file: {path.name} defines no graph(n, ...); add this function")
    return graph


def _edge_list(path: Path) -> Callable[..., Any]:
    lines: dict[tuple[int, int], dict[str, float]] = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        text = line.partition("#")[0].strip()
        match = EDGE.fullmatch(text)
        if not text:
            continue
        edge = (int(match[1]), int(match[2])) if match else None
        if not match or not edge or edge in lines:
            why = "is no new edge; write each once: 'u v [weight [latency bandwidth]]', all from 0"
            raise InputError(f"topology.file: {path.name} line {number}: {text!r} {why}")
        given = zip(("weight", *LINK), match.groups()[2:], strict=True)
        lines[edge] = {name: float(value) for name, value in given if value}

    def graph(n: int, directed: bool | None = None) -> Any:
        import networkx as nx

        back = {(v, u): given for (u, v), given in lines.items()}
        if directed is None:
            directed = any(u != v and (u, v) in back for u, v in lines)
        if not directed and any(lines.get(edge, given) != given for edge, given in back.items()):
            raise ValueError("an edge has two weights or two links: give directed = true")
        made = nx.DiGraph() if directed else nx.Graph()
        made.add_edges_from((u, v, given) for (u, v), given in lines.items())
        return made

    return graph


def _graphml(path: Path) -> Callable[..., Any]:
    import networkx as nx

    try:
        made = nx.read_graphml(path)
    except Exception as error:  # the XML parser's message names line and column
        raise InputError(f"topology.file: {path.name} is no GraphML file: {error}") from error

    def by_value(name: str) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

    ranks = {name: rank for rank, name in enumerate(sorted(made, key=by_value))}
    return lambda n: nx.relabel_nodes(made, ranks)


Reader: TypeAlias = Callable[[Path], Callable[..., Any]]
READERS: dict[str, Reader] = {".edgelist": _edge_list, ".graphml": _graphml, ".py": _python}


def _draw(graph: Callable[..., Any], given: dict[str, Any], peers: int, seed: int) -> list[Any]:
    """Call `graph` with its parameters; one networkx graph per step of the period."""
    import networkx as nx

    arguments = _arguments(graph, given, seed)
    try:
        made = graph(peers, **arguments)
    except Exception as error:
        meant = isinstance(error, ValueError | nx.NetworkXException)  # else a bug in the file
        raise InputError(f"topology: {error if meant else f'graph() failed: {error!r}'}") from error
    steps = list(made) if isinstance(made, list | tuple) else [made]
    if not steps or not all(isinstance(step, nx.Graph) for step in steps):
        raise InputError(f"topology: graph() must return networkx graphs, not {made!r}")
    return steps


def _arguments(graph: Callable[..., Any], given: dict[str, Any], seed: int) -> dict[str, Any]:
    declared = dict(list(inspect.signature(graph).parameters.items())[1:])  # n comes first
    values = {"seed": seed} if "seed" in declared else {}
    for key, value in given.items():
        if key not in declared:
            known = suggest(key, [*declared, "name", "file", "weights"])
            raise InputError(f"topology.{key}: unknown parameter; {known}")
        try:
            values[key] = msgspec.convert(value, get_type_hints(graph).get(key, Any))
        except (msgspec.ValidationError, NameError, TypeError) as error:
            raise InputError(f"topology.{key} = {value!r}: {error}; correct it") from error
    for key, parameter in declared.items():
        if key not in values and parameter.default is parameter.empty:
            raise InputError(f"topology.{key}: the graph needs this parameter, give '{parameter}'")
    return values


def _links(graph: Any, peers: int, samples: Sequence[int]) -> GraphArrays:
    _check_nodes(graph, peers)
    adjacency, weight = _values(graph, None), _values(graph, "weight")
    loops = adjacency.diagonal() > 0
    np.fill_diagonal(adjacency, 0)
    return GraphArrays(adjacency, loops, weight, np.array(samples, float))


def _values(graph: Any, name: str | None) -> Matrix:
    """What the edges say under this name, NaN where nothing; without a name 1 for every edge."""
    values = np.full((len(graph), len(graph)), np.nan if name else 0.0)
    if name and not _gives(graph, name):
        return values
    arcs = list(graph.edges(data=name, default=np.nan) if name else graph.edges)
    u, v = (np.array([arc[end] for arc in arcs], int) for end in (0, 1))
    try:
        given = np.array([arc[2] for arc in arcs], float) if name else 1.0
    except (TypeError, ValueError) as error:
        raise InputError(f"topology: an edge's {name} is no number: {error}") from error
    for receiver, sender in [(v, u)] if graph.is_directed() else [(v, u), (u, v)]:
        values[receiver, sender] = given
    return values


def _gives(graph: Any, name: str) -> bool:
    """Whether an edge says something under this name."""
    return any(name in data for *_, data in graph.edges(data=True))


def _transfer(steps: Sequence[Any]) -> dict[str, Matrix]:
    """Latency and bandwidth of the edges, which are the same in every step."""
    made = {}
    for name in LINK:
        if not any(_gives(graph, name) for graph in steps):
            continue
        values = np.array([_values(graph, name) for graph in steps])
        low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        least = f">= 0, not {np.nanmin(low)}" if (low < 0).any() else ""
        if name == "bandwidth" and (low <= 0).any():
            least = f"> 0, not {np.nanmin(low)}"
        if least or (low < high).any() or np.isinf(high).any():
            cure = least or "the same number in every step"
            raise InputError(f"topology: give an edge's {name} as {cure}")
        made[name] = low
    return made


def _check_nodes(graph: Any, peers: int) -> None:
    has = f"topology: the graph has {len(graph)} nodes"
    if len(graph) != peers:
        raise InputError(f"{has} but peers = {peers}: set peers = {len(graph)} or change the graph")
    for stray in set(graph) - set(range(peers)):
        raise InputError(f"{has}, one of them {stray!r}: number them 0 to {peers - 1}")
    if graph.is_multigraph():
        raise InputError(f"{has} and parallel edges: keep one of each")


def _check_connected(union: NDArray[np.bool_]) -> None:
    """Everyone must reach everyone: to and from peer 0 is enough."""
    for links, text in ((union.T, "peer 0 does not reach"), (union, "peer 0 is not reached from")):
        seen = front = np.arange(len(union)) == 0
        while front.any():
            front = links[front].any(axis=0) & ~seen
            seen = seen | front
        if not seen.all():
            lost = ", ".join(map(str, np.flatnonzero(~seen)[:5]))
            kind = "connected" if (union == union.T).all() else "strongly connected"
            raise InputError(f"topology: the graph is not {kind}: {text} {lost}; add edges")


def _check_rule(rule: str, one_way: NDArray[np.int64], steps: list[GraphArrays]) -> None:
    for _, i, j in one_way if rule in UNDIRECTED else ():
        why = f"needs an undirected graph, but {j} sends to {i} and {i} not to {j}"
        raise InputError(f"topology.weights: {rule!r} {why}; allowed here: {', '.join(DIRECTED)}")
    for _, i in np.argwhere([links.loops for links in steps]) if rule != "edges" else ():
        why = f"but {rule!r} sets W_ii by itself: remove self-loops, or set weights = 'edges'"
        raise InputError(f"topology: the graph has an edge from {i} to itself, {why}")
