"""SentEval's probing task of sentence length, from the text file as it is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from p2psim.data.files import FileSet, open_data_file
from p2psim.data.text import TextData
from p2psim.registry import plugin

NAME = "sentence_length.txt"
PARTS = ("tr", "va", "te")
CLASSES = ("0", "1", "2", "3", "4", "5")
HOME = "https://raw.githubusercontent.com/facebookresearch/SentEval/main/data/probing"
CURE = f"download {HOME}/{NAME} into the folder senteval in the data folder, which P2PSIM_DATA sets"
FILES = FileSet("senteval-length", ("senteval", "senteval-length"), CURE)


@plugin("data", "senteval-length", source="Conneau & Kiela 2018; Conneau et al. 2018")
class SentEvalLength(TextData):
    """About 100,000 + 10,000 + 10,000 sentences, in 6 classes by their number of words.

    The classes are 5 to 8 words, 9 to 12, 13 to 16, 17 to 20, 21 to 25, 26 to 28. A sample consists
    of the first `length` token ids (int32) of a sentence, padded with 0. Tokens are separated by
    blanks in the file and converted to lower case: id 0 is padding, 1 an unknown word, the further
    ids are the most frequent words of the training part, up to `vocabulary` ids in total. With
    `tokenizer`, a local folder of a Hugging Face tokenizer, that tokenizer defines the ids instead.
    `validation`: test on the validation part.
    """

    validation: bool = False

    outputs = len(CLASSES)
    classes = len(CLASSES)

    def open(self, folder: str) -> None:
        """Find and read the file; InputError if it is missing or damaged."""
        self._path = FILES.find(NAME)
        super().open(folder)

    def rows(self, part: str) -> Iterator[tuple[int, str]]:
        test = "va" if self.validation else "te"
        return read_rows(self._path, "tr" if part == "train" else test)

    def words(self, text: str) -> list[str]:
        return text.lower().split()


def read_rows(path: Path, part: str) -> Iterator[tuple[int, str]]:
    """Yield class and sentence of each line of a part; InputError if the file is damaged."""
    empty = True
    with open_data_file(path, FILES.cure) as stream:
        for number, line in enumerate(stream, start=1):
            tag, label, sentence = parse_line(line, number)
            if tag == part:
                empty = False
                yield label, sentence
        if empty:
            raise ValueError(f"no line starts with {part!r}")


def parse_line(line: bytes, number: int) -> tuple[str, int, str]:
    """Return part, class and sentence of one line; ValueError if it is not a valid line."""
    fields = line.decode("utf-8").rstrip("\r\n").split("\t")
    if len(fields) != 3:
        count = len(fields)
        raise ValueError(f"line {number} has {count} fields in place of part, class, sentence")
    part, label, sentence = fields
    if part not in PARTS:
        raise ValueError(f"line {number} is of part {part[:20]!r} where tr, va, te are allowed")
    if label not in CLASSES:
        raise ValueError(f"line {number} has the class {label[:20]!r} where 0 to 5 are allowed")
    return part, int(label), sentence
