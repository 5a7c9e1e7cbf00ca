"""DistilBERT with a classification head, read from a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from p2psim.base import Count, DataSpec, Shape
from p2psim.data.text import PADDING, installed, library
from p2psim.errors import InputError
from p2psim.models.layers import Activation, Layer, Layered, Linear, Residual
from p2psim.models.sequences import (
    Attention,
    Embedding,
    FirstToken,
    LayerNorm,
    check_heads,
    check_text_input,
    vocabulary_size,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
HEAD = ("pre_classifier.", "classifier.")  # tensors that a folder may lack
CURE = "give the folder of a DistilBERT, written by save_pretrained of Hugging Face's transformers"


class Config(msgspec.Struct):
    """Entries of config.json that p2psim uses; the default sizes are those of the published one."""

    model_type: str = ""
    vocab_size: Count = 30_522
    max_position_embeddings: Count = 512
    n_layers: Count = 6
    n_heads: Count = 12
    dim: Count = 768
    hidden_dim: Count = 3072


@plugin("model", "distilbert", "Sanh et al. 2019")
class DistilBERT(Layered):
    """The model in the local folder `path`, with dense - ReLU - dense on the first token.

    `path` is relative to the experiment's folder; the folder holds config.json and weights. The
    parts of the head that the folder does not have for this number of classes start at random. With
    `from_scratch`
    all parameters start at random, and only config.json is read. Set data.tokenizer to the same
    folder, because the trained embeddings belong to its token ids. Attention skips padding (id 0).
    In 8 bits linear layers and norms are quantized; sums, products inside the attention and
    embeddings are not.
    """

    samples = "tokens"

    path: str
    from_scratch: bool = False

    def __post_init__(self) -> None:
        self.folder, self.vocabulary = Path(self.path), 0

    def bind(self, spec: DataSpec, folder: Path) -> None:
        """Set the model's folder and the data's vocabulary; InputError without transformers."""
        self.folder, self.vocabulary = folder / self.path, vocabulary_size(spec)
        installed(f"model 'distilbert', path = {self.path!r}")

    def layers(self, inputs: Shape, outputs: int) -> list[Layer]:
        check_text_input("distilbert", inputs)
        c = self.config(inputs[0])
        dense = [Linear(c.hidden_dim), Activation("GELU"), Linear(c.dim)]
        block = [Residual([Attention()]), LayerNorm(), Residual(dense), LayerNorm()]
        first = Embedding(c.vocab_size, c.dim, c.max_position_embeddings)
        head = [FirstToken(), Linear(c.dim), Activation("ReLU"), Linear(outputs)]
        return [first, LayerNorm(), *block * c.n_layers, *head]

    def config(self, length: int) -> Config:
        """Read config.json and check it, and the folder, for texts of this length in tokens.

        Raises InputError if the model's vocabulary or number of positions is too small, or if the
        folder has no weights and `from_scratch` is not set.
        """
        c = read_config(self.folder)
        if c.vocab_size < self.vocabulary:
            raise InputError(
                f"model.path: {str(self.folder)!r} has a vocabulary of {c.vocab_size}, the data "
                f"of {self.vocabulary}; give the same folder as data.tokenizer, or a "
                f"data.vocabulary of at most {c.vocab_size}"
            )
        if c.max_position_embeddings < length:
            raise InputError(
                f"data.length = {length}: the model in {str(self.folder)!r} takes at most "
                f"{c.max_position_embeddings} tokens; give at most this number"
            )
        if not self.from_scratch and not any(map(any, map(self.folder.glob, WEIGHTS))):
            raise InputError(
                f"model.path: {str(self.folder)!r} holds no weights; give a folder that does, "
                "or set model.from_scratch = true"
            )
        return c

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.attention import Logits

        self.layers(inputs, outputs)  # checks the shape and the folder
        transformers = library(f"model 'distilbert', path = {self.path!r}")
        try:
            module = self.load_module(transformers, outputs)
        except InputError:
            raise
        except Exception as error:  # the library has no class of its own for damaged files
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"model.path: {str(self.folder)!r} cannot be loaded ({reason}); {CURE}"
            ) from None
        # config.json may fix the position embeddings. Here they get gradients as well, because
        # peers mix all parameters as one vector.
        return Logits(module.float().requires_grad_(True).train())

    def load_module(self, transformers: Any, outputs: int) -> Any:
        """Load the module of transformers with its weights, or random ones if `from_scratch`."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        path = str(self.folder)
        config = transformers.DistilBertConfig.from_pretrained(path, local_files_only=True)
        config.num_labels, config.pad_token_id = outputs, PADDING
        config._attn_implementation = "eager"  # otherwise the library chooses, and sums may differ
        cls = transformers.DistilBertForSequenceClassification
        if self.from_scratch:
            return cls(config)
        options = dict.fromkeys(
            ("local_files_only", "ignore_mismatched_sizes", "output_loading_info"), True
        )
        module, loading_info = cls.from_pretrained(
            path, config=config, attn_implementation="eager", **options
        )
        self.check_weights(loading_info)
        return module

    def check_weights(self, loading_info: Any) -> None:
        """Check that every tensor outside the head was loaded with its shape; else InputError."""
        keys = [
            *loading_info["missing_keys"],
            *(key[0] for key in loading_info["mismatched_keys"]),
        ]
        wrong = sorted(key for key in keys if not key.startswith(HEAD))
        if wrong:
            raise InputError(
                f"model.path: the weights in {str(self.folder)!r} do not fit its config.json "
                f"({wrong[0]} is missing or of another shape); {CURE}"
            )


def read_config(folder: Path) -> Config:
    """Read config.json of a folder; InputError if it is missing, damaged, or of another model."""
    if not folder.is_dir():
        raise InputError(f"model.path: there is no folder {str(folder)!r}; {CURE}")
    path = folder / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
    except FileNotFoundError:
        raise InputError(f"model.path: {str(folder)!r} has no config.json; {CURE}") from None
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise InputError(f"model.path: {str(path)!r} cannot be used ({error}); {CURE}") from None
    if config.model_type != "distilbert":
        raise InputError(
            f"model.path: {str(path)!r} has model_type {config.model_type!r} where only "
            f"'distilbert' is allowed; {CURE}"
        )
    check_heads(config.n_heads, config.dim, f"model.path: {str(path)!r}: n_heads")
    return config
