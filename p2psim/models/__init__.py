"""Models: networks, their layers and norms, and the cost model of training them."""
