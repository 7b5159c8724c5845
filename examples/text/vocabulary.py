"""Turns texts into sequences of token numbers: 0 is padding, 1 unknown."""

import collections
import re

import numpy as np

PADDING, UNKNOWN, FIRST_TOKEN = 0, 1, 2

MARKUP = re.compile(r"<[^<>]{1,40}>")
# Words with their apostrophes, and the marks that carry tone or money.
WORD = re.compile(r"\w+(?:['’]\w+)*|[!?$€£]")


def words(text: str) -> list[str]:
    """Splits a text into lower-case words; HTML tags are dropped."""
    return WORD.findall(MARKUP.sub(" ", text).lower())


def utf8_bytes(text: str) -> list[str]:
    """Splits a text into its UTF-8 bytes, written as two hex digits."""
    return [f"{byte:02x}" for byte in text.encode("utf-8", "replace")]


TOKENIZERS = {"word": words, "byte": utf8_bytes}


class Vocabulary:
    """The tokens of a training set, the most frequent first.

    Args:
        kind: `"word"` or `"byte"`.
        tokens: the known tokens; the first has number 2.
        max_length: how many tokens of a text are kept. Of a longer one the
            first quarter and the last three quarters of that: verdicts tend
            to stand at the end.
    """

    def __init__(self, kind: str, tokens: list[str], max_length: int):
        self.kind = kind
        self.tokens = tokens
        self.max_length = max_length
        self.numbers = {
            token: number for number, token in enumerate(tokens, FIRST_TOKEN)
        }

    def __len__(self):
        return FIRST_TOKEN + len(self.tokens)

    @classmethod
    def learn(cls, kind: str, texts, size: int, max_length: int):
        """Keeps the `size` most frequent tokens that occur at least twice."""
        tokenize = TOKENIZERS[kind]
        counts = collections.Counter()
        for text in texts:
            counts.update(tokenize(text))
        common = counts.most_common(size - FIRST_TOKEN)
        return cls(kind, [t for t, n in common if n > 1], max_length)

    def encode(self, text: str) -> np.ndarray:
        """Returns between 1 and `max_length` token numbers."""
        tokens = TOKENIZERS[self.kind](text)
        if len(tokens) > self.max_length:
            head = self.max_length // 4
            tokens = tokens[:head] + tokens[head - self.max_length :]
        numbers = [self.numbers.get(token, UNKNOWN) for token in tokens]
        # A text without tokens is one unknown token: a row that is all
        # padding would leave the model nothing to average over.
        return np.array(numbers or [UNKNOWN], "int32")

    def get_config(self) -> dict:
        return {
            "kind": self.kind,
            "tokens": self.tokens,
            "max_length": self.max_length,
        }
