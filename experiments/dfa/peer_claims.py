"""Claims about DFA over peers: one feedback matrix for all, or another one on each peer."""

from __future__ import annotations

from experiments.dfa.measures import at_best_validation, final, number
from experiments.harness.reproduce import Claim, Runs
from p2psim.analysis.results import Array

PARTITIONS = {"iid": "equal data", "four": "4 classes a peer", "two": "2 classes a peer"}
KINDS = {"bp": "backpropagation", "same": "DFA, one matrix", "own": "DFA, own matrices"}


def texts(values: dict[str, Array]) -> str:
    """Return the values of several cases in words."""
    return ", ".join(f"{KINDS[kind]} {number(own)}" for kind, own in values.items())


def claims_peers(runs: Runs) -> list[Claim]:
    """Check what a common matrix is worth, and what momentum does to skewed data."""
    claims = []
    for partition, name in PARTITIONS.items():
        own = {kind: final(runs[f"{partition}-{kind}"], "accuracy") for kind in KINDS}
        claims.append(
            Claim(
                f"MLP, ring of 5, {name}: a common matrix is not worse than own ones",
                {"iid": ".935, .925", "four": ".930, .897", "two": ".913, .894"}[partition],
                texts(own),
                bool(own["same"].mean() >= own["own"].mean()),
            )
        )
    bp, dfa = (final(runs[f"two-{kind}"], "accuracy") for kind in ("bp", "same"))
    plain = [final(runs[f"two-{kind}-plain"], "accuracy") for kind in ("bp", "same")]
    return [
        *claims,
        Claim(
            "MLP, 2 classes a peer: local momentum .9 hurts backpropagation far more than DFA: DFA "
            "is at least .2 above",
            "reference .913 and .481; without momentum .890 and .895",
            f"DFA {number(dfa)}, backpropagation {number(bp)}; without momentum "
            f"{number(plain[1])} and {number(plain[0])}",
            bool(dfa.mean() - bp.mean() >= 0.2),
        ),
    ]


def claims_stragglers(runs: Runs) -> list[Claim]:
    """Check that DFA can leave stragglers behind as backpropagation can."""
    claims = []
    for rule, name in (("bp", "backpropagation"), ("dfa", "DFA")):
        full, lgc, k = (
            final(runs[f"rule={rule}-{case}"], "accuracy") for case in ("full", "lgc", "k")
        )
        saved = 1 - final(runs[f"rule={rule}-lgc"], "time") / final(
            runs[f"rule={rule}-full"], "time"
        )
        claims.append(
            Claim(
                f"{name}: LGC-SGD with the 7 fastest of 10 peers within .01 of all peers, above "
                "K-SGD, in 30 % less time or better",
                "LGC-SGD as good as all peers, 34 % less time (its paper)",
                f"{number(lgc)} and {number(full)}, K-SGD {number(k)}; {saved.mean():.0%} less",
                bool(
                    abs(lgc.mean() - full.mean()) <= 0.01
                    and lgc.mean() > k.mean()
                    and saved.mean() >= 0.3
                ),
            )
        )
    return claims


def claims_small_peers(runs: Runs) -> list[Claim]:
    """Check on digits what a common matrix is worth, and that less traffic and 8 bits suffice."""
    claims = []
    for partition in ("iid", "two"):
        own = {kind: final(runs[f"{partition}-{kind}"], "accuracy") for kind in KINDS}
        claims.append(
            Claim(
                f"{PARTITIONS[partition]}: a common matrix is better than own ones, or at most "
                ".005 worse",
                "better on MNIST",
                texts(own),
                bool(own["same"].mean() >= own["own"].mean() - 0.005),
            )
        )
    full = final(runs["iid-same"], "accuracy")
    for case, name in (("choco", "CHOCO-SGD with a tenth of the entries"), ("int8", "8 bits")):
        values = final(runs[case], "accuracy")
        claims.append(
            Claim(
                f"DFA with {name}: within .015 of D-PSGD in 32 bits",
                "not published",
                f"{number(values)} and {number(full)}",
                bool(abs(values.mean() - full.mean()) <= 0.015),
            )
        )
    return claims


def claims_graph_peers(runs: Runs) -> list[Claim]:
    """Check the same for a GCN whose training labels are split."""
    claims = []
    for partition in ("iid", "four"):
        own = {kind: at_best_validation(runs[f"{partition}-{kind}"]) for kind in KINDS}
        margin = 0.1 if partition == "iid" else 0.0
        claims.append(
            Claim(
                f"GCN, ring of 5, {PARTITIONS[partition]}: a common matrix is "
                + ("more than .1 better than own ones" if margin else "not worse than own ones"),
                {"iid": "reference .779, .608", "four": "reference .623, .532"}[partition],
                texts(own),
                bool(own["same"].mean() - own["own"].mean() >= margin),
            )
        )
    bp, dfa = (at_best_validation(runs[f"iid-{kind}"]) for kind in ("bp", "same"))
    return [
        *claims,
        Claim(
            "GCN, equal data: DFA with one matrix within .06 of backpropagation",
            "reference .807, .779",
            f"{number(bp)} and {number(dfa)}",
            bool(bp.mean() - dfa.mean() <= 0.06),
        ),
    ]
