"""DistilBERT as it lies in a local folder, with its classification head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from p2psim.base import Count, Shape
from p2psim.data.text import PADDING, installed, library
from p2psim.errors import InputError
from p2psim.models.layers import Activation, Layer, Layered, Linear, Residual
from p2psim.models.sequences import (
    Attention,
    Embedding,
    FirstToken,
    LayerNorm,
    check_text_input,
    divides,
)
from p2psim.registry import plugin

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
HEAD = ("pre_classifier.", "classifier.")  # what a folder need not hold
CURE = "give the folder of a DistilBERT, written by save_pretrained of Hugging Face's transformers"


class Config(msgspec.Struct):
    """What config.json says of the tensors; the defaults are those of the published model."""

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

    `path` starts from the experiment's folder, and holds config.json and weights. A head that is
    not there, or for another number of classes, starts at random; with `from_scratch` everything
    does, and config.json alone is read. Take data.tokenizer = the same folder, as a trained model
    knows no other ids. Nobody attends to padding (id 0). In 8 bits linear layers and norms are
    quantized; sums, products of the attention and embeddings are not.
    """

    tokens = True

    path: str
    from_scratch: bool = False

    def __post_init__(self) -> None:
        self.folder = Path(self.path)

    def locate(self, folder: Path) -> None:
        self.folder = folder / self.path
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
        """config.json; InputError where it or the folder is not one for texts of this length."""
        c = read(self.folder)
        if c.vocab_size < self.vocabulary:
            raise InputError(
                f"model.path: {str(self.folder)!r} has a vocabulary of {c.vocab_size}, the data "
                f"of {self.vocabulary}; give the same folder as data.tokenizer, or a "
                f"data.vocabulary of at most {c.vocab_size}"
            )
        if c.max_position_embeddings < length:
            raise InputError(
                f"data.length = {length}: the model in {str(self.folder)!r} takes at most "
                f"{c.max_position_embeddings} tokens; give so many or fewer"
            )
        if not self.from_scratch and not any(map(any, map(self.folder.glob, WEIGHTS))):
            raise InputError(
                f"model.path: {str(self.folder)!r} holds no weights; give a folder that does, "
                "or set model.from_scratch = true"
            )
        return c

    def build(self, inputs: Shape, outputs: int) -> nn.Module:
        from p2psim.models.attention import Logits

        self.layers(inputs, outputs)
        transformers = library(f"model 'distilbert', path = {self.path!r}")
        try:
            made = self.made(transformers, outputs)
        except InputError:
            raise
        except Exception as error:  # the library has no class of its own for what may be wrong
            said = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(
                f"model.path: {str(self.folder)!r} cannot be loaded ({said}); {CURE}"
            ) from None
        # Positions by sines would be fixed, but what peers mix is one vector with a gradient.
        return Logits(made.float().requires_grad_(True).train())

    def made(self, transformers: Any, outputs: int) -> Any:
        """The module as the library has it."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        place = str(self.folder)
        config = transformers.DistilBertConfig.from_pretrained(place, local_files_only=True)
        config.num_labels, config.pad_token_id = outputs, PADDING
        config._attn_implementation = "eager"  # the same sums whatever the library would choose
        kind = transformers.DistilBertForSequenceClassification
        if self.from_scratch:
            return kind(config)
        options = dict.fromkeys(
            ("local_files_only", "ignore_mismatched_sizes", "output_loading_info"), True
        )
        module, told = kind.from_pretrained(
            place, config=config, attn_implementation="eager", **options
        )
        self.check(told)
        return module

    def check(self, told: Any) -> None:
        """Refuse weights that lack, or hold in another shape, what is not of the head."""
        keys = [*told["missing_keys"], *(key[0] for key in told["mismatched_keys"])]
        odd = sorted(key for key in keys if not key.startswith(HEAD))
        if odd:
            raise InputError(
                f"model.path: the weights in {str(self.folder)!r} do not fit its config.json "
                f"({odd[0]} is missing or of another shape); {CURE}"
            )


def read(folder: Path) -> Config:
    """A folder's config.json; InputError where it is not one of DistilBERT."""
    if not folder.is_dir():
        raise InputError(f"model.path: there is no folder {str(folder)!r}; {CURE}")
    path = folder / "config.json"
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
    except FileNotFoundError:
        raise InputError(f"model.path: {str(folder)!r} has no config.json; {CURE}") from None
    except (OSError, ValueError) as error:  # what msgspec raises is one
        raise InputError(f"model.path: {str(path)!r} cannot be used ({error}); {CURE}") from None
    if config.model_type != "distilbert":
        raise InputError(
            f"model.path: {str(path)!r} has model_type {config.model_type!r} where only "
            f"'distilbert' is allowed; {CURE}"
        )
    divides(config.n_heads, config.dim, f"model.path: {str(path)!r}: n_heads")
    return config
