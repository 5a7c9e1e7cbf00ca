"""Published locations of data sets, and the checksums of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Published location of a data set, and the checksums of its files.

    A checksum is sha256, or md5 with the prefix "md5:" if the authors publish no other.
    """

    url: str
    files: Mapping[str, str]  # checksum by path in the folder of the data set
    # Name and checksum of the archive that holds all files; None: each is downloaded by itself.
    archive: tuple[str, str] | None = None
    # Folder in the archive that is taken as a whole, if its files are not listed one by one.
    folder: str = ""
    most: int = 2**28  # bytes of a file; a server that sends more does not send the published one


SETS = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz",
        {
            "cifar-10-batches-py/data_batch_1": (
                "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"
            ),
            "cifar-10-batches-py/data_batch_2": (
                "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"
            ),
            "cifar-10-batches-py/data_batch_3": (
                "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"
            ),
            "cifar-10-batches-py/data_batch_4": (
                "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"
            ),
            "cifar-10-batches-py/data_batch_5": (
                "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"
            ),
            "cifar-10-batches-py/test_batch": (
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"
            ),
        },
        (
            "cifar-10-python.tar.gz",  # md5 c58f30108f718f92721af3b95e74349a
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "imagenette": Source(
        "https://s3.amazonaws.com/fast-ai-imageclas",
        {},
        ("imagenette2-160.tgz", "md5:e793b78cc4c9e9a4ccc0c1155377a412"),
        "imagenette2-160",
    ),
    "ag-news": Source(
        "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv",
        {
            "train.csv": "76a0a2d2f92b286371fe4d4044640910a04a803fdd2538e0f3f29a5c6f6b672e",
            "test.csv": "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
        },
    ),
    "planetoid": Source(
        "https://raw.githubusercontent.com/kimiyoung/planetoid/master/data",
        {
            "ind.citeseer.allx": (
                "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668"
            ),
            "ind.citeseer.ally": (
                "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95"
            ),
            "ind.citeseer.graph": (
                "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7"
            ),
            "ind.citeseer.test.index": (
                "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4"
            ),
            "ind.citeseer.tx": ("539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21"),
            "ind.citeseer.ty": ("55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce"),
            "ind.citeseer.x": ("d20de19150741e555de0ed037195630fc194114ebc7fd72ced62810148aa22f6"),
            "ind.citeseer.y": ("8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924"),
            "ind.cora.allx": ("9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543"),
            "ind.cora.ally": ("2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71"),
            "ind.cora.graph": ("58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d"),
            "ind.cora.test.index": (
                "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875"
            ),
            "ind.cora.tx": ("b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a"),
            "ind.cora.ty": ("41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad"),
            "ind.cora.x": ("23cfa55d91c6f624233f5eb7b6e3f141f1bd2b2ae39608a63cf5d084bb27baab"),
            "ind.cora.y": ("94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1"),
        },
    ),
    "tiny-shakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",
        {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    ),
}
# Data sets without a published checksum are not downloaded, because the download could not be
# verified. The user gets this advice instead.
UNCHECKED = {
    "criteo": (
        "accept the terms of Criteo's Display Advertising Challenge where it is offered, and put "
        "its train.txt into the folder criteo in P2PSIM_DATA"
    ),
    "senteval-length": (
        "download https://raw.githubusercontent.com/facebookresearch/SentEval/main/data/probing/"
        "sentence_length.txt yourself, into the folder senteval in P2PSIM_DATA"
    ),
    "wikitext-2": (
        "download train.txt and test.txt yourself from https://raw.githubusercontent.com/pytorch/"
        "examples/main/word_language_model/data/wikitext-2, into the folder wikitext-2 in "
        "P2PSIM_DATA"
    ),
    "wikitext-103": (
        "put wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens yourself into the folder "
        "wikitext-103 in P2PSIM_DATA"
    ),
    "nerf-synthetic": (
        "unpack the authors' archive nerf_synthetic.zip yourself, so that P2PSIM_DATA has "
        "nerf_synthetic/lego/transforms_train.json and the other files"
    ),
    "llff": (
        "unpack the authors' archive nerf_llff_data.zip yourself, so that P2PSIM_DATA has "
        "nerf_llff_data/fern/poses_bounds.npy and the other files"
    ),
}
