"""SentEval's probing task of sentence length, from the text file as it is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from p2psim.data.files import FileSet, reading
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

    5 to 8 words, 9 to 12, 13 to 16, 17 to 20, 21 to 25, 26 to 28. A sample is the first `length`
    token ids (int32) of a sentence, filled up with 0. Tokens stand between blanks in the file and
    are taken in lower case: id 0 is padding, 1 an unknown word, then come the most frequent words
    of the training part, up to `vocabulary` ids in all. `tokenizer`, a local folder with a
    tokenizer of Hugging Face, takes their place. `validation`: test on the validation part.
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
    """Class and sentence of each line of a part. InputError where the file is damaged."""
    found = False
    with reading(path, FILES.cure) as stream:
        for number, line in enumerate(stream, start=1):
            tag, label, sentence = fields(line, number)
            if tag == part:
                found = True
                yield label, sentence
        if not found:
            raise ValueError(f"no line starts with {part!r}")


def fields(line: bytes, number: int) -> tuple[str, int, str]:
    """Part, class and sentence of one line; ValueError where it is not one."""
    parts = line.decode("utf-8").rstrip("\r\n").split("\t")
    if len(parts) != 3:
        raise ValueError(f"line {number} has {len(parts)} fields in place of part, class, sentence")
    if parts[0] not in PARTS:
        raise ValueError(f"line {number} is of part {parts[0][:20]!r} where tr, va, te are allowed")
    if parts[1] not in CLASSES:
        raise ValueError(f"line {number} has the class {parts[1][:20]!r} where 0 to 5 are allowed")
    return parts[0], int(parts[1]), parts[2]
