"""Figures and tables of Direct Feedback Alignment by data set.

"real" uses published data at the sizes of this machine, the tables 3 and 4 at full size; "digits"
needs no download; "paper" has the paper's own sizes and is for GPU nodes.
"""

from __future__ import annotations

from functools import partial

from experiments.dfa.claims import (
    DIGITS,
    MNIST,
    claims_clicks,
    claims_cnn,
    claims_language,
    claims_links,
    claims_mlp,
    claims_nodes,
    claims_views,
)
from experiments.dfa.drawing import (
    draw_cases,
    draw_graph_peers,
    draw_mlp,
    draw_nodes,
    draw_peers,
    draw_stragglers,
    draw_views,
)
from experiments.dfa.measures import GRAPHS, NAMES, at_best_validation, final_auc
from experiments.dfa.network import claims_network, draw_network, network_table
from experiments.dfa.peer_claims import (
    PARTITIONS,
    claims_graph_peers,
    claims_peers,
    claims_small_peers,
    claims_stragglers,
)
from experiments.harness.reproduce import Figure

TITLE = "Direct Feedback Alignment over peers"
AUC = "area under the ROC curve"
LANGUAGE = {"bp": "backpropagation", "macro": "DFA, macro", "micro": "DFA, micro"} | {
    "shallow": "shallow"
}
SWEPT = {f"rule={rule}": name for rule, name in NAMES.items()}
GRAPH_TABLES = [
    *[
        Figure(
            name,
            f"nodes of graphs (table 3): {', '.join(models)}",
            f"full/{name}.toml",
            partial(draw_nodes, models),
            partial(claims_nodes, models),
            debug=True,
        )
        for name, models in (("table3", ("gcn", "cheb", "spline", "gat")), ("table3-dna", ("dna",)))
    ],
    Figure(
        "table4",
        "links of graphs (table 4)",
        "full/table4.toml",
        partial(draw_cases, "auc", AUC, GRAPHS, NAMES),
        claims_links,
        debug=True,
    ),
]
FIGURES = {
    "real": [
        *GRAPH_TABLES,
        Figure(
            "criteo",
            "clicks, 8,000 rows (table 2)",
            "small/criteo.toml",
            partial(draw_cases, "auc", AUC, ("deepfm", "dcn", "afn"), NAMES),
            partial(claims_clicks, final_auc),
            debug=True,
        ),
        Figure(
            "nerf",
            "views of a scene (table 1)",
            "small/nerf.toml",
            draw_views,
            claims_views,
            debug=True,
        ),
        Figure(
            "language",
            "characters (table 5)",
            "small/language.toml",
            partial(draw_cases, "perplexity", "perplexity", ("",), LANGUAGE),
            claims_language,
            debug=True,
        ),
        Figure(
            "mlp",
            "MLP, and alignment",
            "small/mlp.toml",
            draw_mlp,
            partial(claims_mlp, MNIST),
            debug=True,
        ),
        Figure(
            "cnn",
            "convolutions: the negative result",
            "small/cnn.toml",
            partial(draw_cases, "accuracy", "test accuracy", ("",), SWEPT),
            claims_cnn,
            debug=True,
        ),
        Figure(
            "peers",
            "ring of 5",
            "small/peers.toml",
            partial(draw_peers, tuple(PARTITIONS)),
            claims_peers,
        ),
        Figure(
            "graph-peers",
            "one graph, five peers",
            "small/graph-peers.toml",
            draw_graph_peers,
            claims_graph_peers,
        ),
        Figure(
            "stragglers",
            "DFA with stragglers",
            "small/stragglers.toml",
            draw_stragglers,
            claims_stragglers,
        ),
        Figure(
            "network",
            "DFA x network: ring of 8",
            "small/network.toml",
            draw_network,
            claims_network,
            table=network_table,
        ),
    ],
    "digits": [
        Figure(
            "s-mlp",
            "MLP, and alignment",
            "small/s-mlp.toml",
            draw_mlp,
            partial(claims_mlp, DIGITS),
            debug=True,
        ),
        Figure(
            "s-peers",
            "ring of 5",
            "small/s-peers.toml",
            partial(draw_peers, ("iid", "two")),
            claims_small_peers,
        ),
    ],
    "paper": [
        Figure("table1", "views of scenes", "full/table1.toml", draw_views, claims_views),
        Figure(
            "criteo-full",
            "clicks (table 2)",
            "full/criteo.toml",
            partial(draw_cases, "auc", AUC, ("deepfm", "dcn", "afn"), NAMES),
            partial(claims_clicks, at_best_validation),
        ),
        *GRAPH_TABLES,
        Figure(
            "table5",
            "words of WikiText-103",
            "full/table5.toml",
            partial(draw_cases, "perplexity", "perplexity", ("",), LANGUAGE),
            claims_language,
        ),
    ],
}
