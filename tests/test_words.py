"""Check the words of the house: docstrings, names that were replaced, names of variables.

CONTRIBUTING says how to write. `make check` and `make test` run these tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A docstring begins with an imperative verb and an object, or with a noun.
FIRST_WORDS = ("What", "Whether", "Of", "Who", "How", "Where")
# A variable is called by the noun for its content.
EMPTY_NAMES = {"made", "found", "given", "told", "said", "kept", "held", "there", "wanted"}

# Old name -> new name, for names that must not be used anywhere in p2psim.
RENAMED = {
    **{"mourn": "report_death", "coroner": "record_crash", "obituary": "record_crash"},
    **{"P2PSIM_WILL": "P2PSIM_CRASH_FD", "revoke": "unregister"},
    **{"Pulse": "RoundAgreement", "frugal": "return_freed_memory"},
    **{"Sight": "RunStatus", "Follower": "RunMonitor", "Lines": "PlainView", "Screen": "LiveView"},
    **{"Rehearsal": "DryRunNeighborhood", "Draws": "NoiseOracle", "Echo": "EchoHandle"},
    **{"Script": "OperationLog", "Rehearsed": "DryRun"},
    **{"Freezer": "StateEncoder", "Thawer": "StateDecoder", "Book": "CheckpointStore"},
    **{"Moment": "PeerStatus", "NOW": "STATUS", "claim": "claim_run_file"},
    **{"agree": "check_all_peers", "unite": "raise_on_all", "problem_of": "capture_error"},
    **{"choose": "select_checkpoint", "scribe": "writes_run_file"},
    **{"Surroundings": "LocalView", "Mixture": "WeightedSum", "under_way": "in_flight"},
    **{"outlook": "diagnose", "clocked": "time_dependent", "StragglerModel": "StepTimeModel"},
    **{"Links": "GraphArrays", "Wire": "Transport", "twin": "duplicate", "Hub": "ThreadHub"},
    **{"Slot": "PendingReceive", "forget_names": "unlink_shared_memory"},
    **{"Realized": "RealTimePacer", "leave_out": "exclude"},
    **{"Lowered": "QuantizedLayer", "LoweredOwn": "QuantizedCustomLayer"},
    **{"LoweredNorm": "QuantizedNorm", "Straight": "StraightThrough"},
    **{"Coarse": "QuantizeGradient", "Split": "BifurcatedProduct", "Join": "BifurcatedJoin"},
    **{"lower_model": "quantize_model", "Plain": "Activation", "Mean": "GlobalAveragePool"},
    **{"First": "FirstToken", "Average": "TokenMean", "normed": "norm_elements"},
    **{"gated": "evonorm_elements", "gates": "evonorm_channels", "aside": "uncounted"},
    **{"below_one": "check_fraction", "framed": "pad", "four": "format_mj"},
    **{"Words": "WordVocabulary", "Pieces": "HuggingFaceTokenizer", "noted": "collect_labels"},
    **{"waves": "sinusoidal_positions", "present": "token_mask", "Asked": "StopRequest"},
    **{"see_it_taken": "wait_until_stderr_is_read", "be_rank": "run_rank"},
    **{"be_threads": "run_threads_locally", "Way": "LaunchCommand"},
    **{"hold_back": "let_first_rank_report", "neighbors_here": "local_rank"},
    **{"Wish": "SlurmRequest", "speaks": "report_from_any_rank", "phrase": "format_value"},
}
# The same for names of functions, classes, attributes and parameters in one file or folder, where
# the old name is a common word: (place, old name) -> new name.
RENAMED_IN = {
    ("algorithms", "fit"): "bind",
    ("algorithms", "records"): "metrics",
    ("base", "fit"): "bind",
    ("base", "records"): "metrics",
    **{
        (place, old): new
        for place in ("base", "network", "algorithms", "experiment/dry_run.py")
        for old, new in {
            "announce": "simulator_exchange",
            "visit": "for_each",
            "post": "start_exchange",
            "arrives": "arrival_time",
            "plain": "raw_tail",
        }.items()
    },
    **{("network", old): new for old, new in {"side": "control", "settle": "drain"}.items()},
    **{
        (place, old): new
        for place in ("base/algorithm.py", "learning/oracle.py", "simulation/oracle.py")
        for old, new in {
            "follow": "update",
            "part": "partial_grad",
            "work": "advance_clock",
            "descend": "local_step",
            "draw": "rng",
        }.items()
    },
    ("simulation/crash_report.py", "leave"): "register",
    ("simulation/crash_report.py", "execute"): "write",
    ("simulation/agreement.py", "Order"): "Decision",
    ("simulation/allocator.py", "quick"): "keep_freed_memory",
    ("simulation/allocator.py", "fill"): "fill_holes_before_fork",
    ("simulation/checkpoint.py", "turn"): "rotate",
    ("simulation/checkpoint.py", "forget"): "delete",
    ("simulation/recorder.py", "own"): "algorithm_row",
    ("simulation/recorder.py", "whole"): "atomic_hdf5",
    ("simulation/simulation.py", "beside"): "untimed",
    ("simulation/simulation.py", "checked"): "check_vector",
    ("simulation/session.py", "enter"): "create_run_folder",
    ("simulation/simulation.py", "at"): "set_phase",
    ("simulation/simulation.py", "known"): "shared_objects",
    ("learning/int8.py", "taken"): "input_quantizer",
    ("learning/int8.py", "lower"): "quantize_model",
    ("models", "taken"): "inputs",
    ("models", "images"): "check_image_input",
    ("models", "texts"): "check_text_input",
    ("models/cost_model.py", "counted"): "counted_parameters",
    ("launcher/mpi_init.py", "join"): "init_mpi",
    ("launcher/environment.py", "inside"): "mpi_rank",
    ("launcher/environment.py", "shell"): "is_interactive_step",
    ("launcher/runner.py", "tell"): "print_result",
    ("launcher/runner.py", "way"): "launcher",
    ("network/peer_values.py", "for_each"): "broadcast_to_peers",
    ("analysis/tables.py", "ends"): "compare_final",
    # One word for each of four schedules, and for the two classes of one name.
    ("network/clock.py", "Schedule"): "EventSink",
    ("simulation/event_log.py", "Schedule"): "EventLog",
    ("analysis/timeline.py", "Schedule"): "TimelineWindow",
    ("base", "Schedule"): "LearningRateSchedule",
    ("network/step_times.py", "Trace"): "StepTimeTrace",
    ("network/links.py", "Trace"): "LinkTrace",
    ("models/attention.py", "Encoder"): "EncoderModule",
}
# Modules that have another name or another place now.
OLD_MODULES = {
    *("accounting", "crops", "datafiles", "descent", "fastest", "following", "heap", "joining"),
    *("listing", "peer", "planning", "precision", "pulse", "rehearsal", "screen", "settings"),
    *("snapshot", "starting", "stragglers", "watching", "weights", "will", "wire"),
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Return a file's path below the checkout."""
    return str(path.relative_to(ROOT))


PACKAGE = sorted((ROOT / "p2psim").rglob("*.py"))
DOCUMENTED = [
    *PACKAGE,
    *(
        path
        for top in ("experiments", "bench", "topologies")
        for path in (ROOT / top).rglob("*.py")
    ),
]


def package_path(path: Path) -> str:
    """Return a file's path below p2psim, or below the checkout."""
    home = ROOT / "p2psim"
    return str(path.relative_to(home if home in path.parents else ROOT))


@pytest.mark.parametrize("path", DOCUMENTED, ids=name_of)
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path) -> None:
    problems = [
        f"{getattr(node, 'name', 'the file')} ({line} ...)"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and (line := (ast.get_docstring(node) or " ").split(maxsplit=1)[:1])
        and line[0] in FIRST_WORDS
    ]
    assert not problems, f"{package_path(path)}: begin with a verb: {', '.join(problems)}"


def names(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield every name that a file defines or uses, with its line."""
    for node in ast.walk(module):
        line = getattr(node, "lineno", 0)
        for field in ("name", "id", "attr", "arg", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield from ((part, line) for part in name.split("."))


def definitions(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the functions, classes, parameters and attributes that a file defines."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                targets = getattr(line, "targets", [getattr(line, "target", None)])
                yield from ((t.id, line.lineno) for t in targets if isinstance(t, ast.Name))


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_old_names_are_not_used(path: Path) -> None:
    place = package_path(path)
    here = {old: new for (at, old), new in RENAMED_IN.items() if f"{place}/".startswith(f"{at}/")}
    for table, used in ((RENAMED, names), (here, definitions)):
        for name, line in used(tree(path)):
            assert name not in table, f"{place}:{line}: {name} is called {table[name]} now"


def test_old_modules_are_gone() -> None:
    assert not {path.stem for path in PACKAGE} & OLD_MODULES


def variables(module: ast.Module) -> Iterator[str]:
    """Yield the names of all variables and parameters of a file."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_variables_are_called_by_a_noun(path: Path) -> None:
    problems = EMPTY_NAMES & set(variables(tree(path)))
    assert not problems, f"{package_path(path)}: name by the content: {', '.join(problems)}"


def test_the_patterns_find_what_they_are_for() -> None:
    text = "class Algorithm:\n    records = 1\n    def fit(self, found): self.side = made = 2\n"
    module = ast.parse(text)
    assert set(variables(module)) & EMPTY_NAMES == {"found", "made"}
    assert {name for name, _ in definitions(module)} >= {"records", "fit", "found", "side"}
    assert {name for name, _ in names(ast.parse("net.under_way"))} == {"net", "under_way"}
