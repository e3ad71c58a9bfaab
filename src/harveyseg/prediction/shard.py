"""Dividing the images of an archive among processes that know nothing of one another."""

import hashlib
import re
from dataclasses import dataclass

from harveyseg.errors import HarveysegError


@dataclass(frozen=True)
class Shard:
    """One of several parts of all images.

    An image belongs to a shard by its name alone, so it stays there when others are added or removed, and wherever the
    folder is.
    """

    number: int
    """From 1 to ``count``."""
    count: int

    def has(self, name: str) -> bool:
        """Whether the image of this name belongs to the shard.

        >>> [name for name in ("a", "b", "c", "d") if Shard(1, 2).has(name)]
        ['a', 'b', 'c']
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number - 1


def parse_shard(text: str) -> Shard:
    """Parse the option ``--shard``.

    >>> parse_shard("2/8")
    Shard(number=2, count=8)

    Raises:
        HarveysegError: when it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if match is None or int(match[1]) > int(match[2]):
        raise HarveysegError(f"--shard {text}: must be K/N, part K of N, from 1/N to N/N, e.g. 2/8.")
    return Shard(int(match[1]), int(match[2]))
