"""How masks are called: the rule by which their names follow from those of their photos."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

LAST_WORD = re.compile(r"[_-][A-Za-z]+$")
"""The last word of a stem, with what separates it."""


def one_form(name: str) -> str:
    r"""A name or an id in one form of Unicode.

    An accented letter is one character or two, depending on the system that copied the file. Ids and names are in the
    form of one (NFC), so that a mask copied from macOS is that of its photo.

    >>> len(one_form("e\u0301"))
    1
    """
    return unicodedata.normalize("NFC", name)


def stem_of(path: PurePath) -> str:
    r"""A file's name without folders and its ending, in :func:`one_form` of Unicode.

    >>> len(stem_of(PurePath("a/e\u0301.png")))
    1
    """
    return one_form(path.stem)


@dataclass(frozen=True)
class NamingRule:
    """How a mask is called: the photo's stem without ``photo_suffix``, between ``prefix`` and ``suffix``."""

    prefix: str = ""
    suffix: str = ""
    photo_suffix: str = ""

    def mask_stem(self, photo_stem: str) -> str | None:
        """The stem of a photo's mask; None for a photo that the rule is not about."""
        if not photo_stem.endswith(self.photo_suffix):
            return None
        return f"{self.prefix}{photo_stem.removesuffix(self.photo_suffix)}{self.suffix}"

    def describe(self) -> str:
        """The rule with ``<id>`` for what photo and mask share.

        >>> NamingRule(suffix="_lab").describe()
        'photo <id>, mask <id>_lab'
        """
        return f"photo <id>{self.photo_suffix}, mask {self.prefix}<id>{self.suffix}"


def find_rule(photos: Sequence[str], masks: Sequence[str]) -> tuple[NamingRule, int]:
    """The rule that explains the names of most masks, and how many.

    Args:
        photos: stems.
        masks: stems.

    >>> find_rule(["1", "12", "30"], ["1_lab", "12_lab"])
    (NamingRule(prefix='', suffix='_lab', photo_suffix=''), 2)
    >>> find_rule(["a_sat", "b_sat"], ["a_mask", "b_mask"])
    (NamingRule(prefix='', suffix='_mask', photo_suffix='_sat'), 2)
    """
    explained = _explained(photos, masks)
    best = max(explained, key=lambda rule: (explained[rule], -len(rule.prefix + rule.suffix), -len(rule.photo_suffix)))
    return best, explained[best]


def matching_rules(photos: Sequence[str], masks: Sequence[str]) -> list[NamingRule]:
    """The rules by which masks may be matched: one, or several that match them differently.

    That is the rule of equal names wherever it explains a mask; elsewhere those rules that explain the most masks, if
    they explain more than half of them. A number is never taken for another one with more digits, such as 11 for 1.

    Args:
        photos: stems.
        masks: stems.

    Returns:
        At least one; equal names if nothing explains the masks.

    >>> [rule.describe() for rule in matching_rules(["1", "2"], ["1_lab", "2_lab", "notes"])]
    ['photo <id>, mask <id>_lab']
    >>> [rule.describe() for rule in matching_rules(["1", "2"], ["11", "12"])]
    ['photo <id>, mask <id>']
    >>> [rule.describe() for rule in matching_rules(["a", "a_x"], ["a_x_x"])]
    ['photo <id>, mask <id>_x', 'photo <id>, mask <id>_x_x']
    """
    explained = _explained(photos, masks)
    if explained[NamingRule()]:
        return [NamingRule()]
    explained = {rule: number for rule, number in explained.items() if not _lengthens_number(rule, photos)}
    most = max(explained.values())
    stems = set(masks)
    if 2 * most <= len(stems):
        return [NamingRule()]
    ruled: dict[frozenset[tuple[str, str]], NamingRule] = {}
    for rule in sorted(explained, key=lambda rule: (len(rule.prefix + rule.suffix), len(rule.photo_suffix))):
        if explained[rule] == most:
            pairs = ((photo, rule.mask_stem(photo)) for photo in photos)
            ruled.setdefault(frozenset((photo, mask) for photo, mask in pairs if mask in stems), rule)
    return list(ruled.values())


def _explained(photos: Sequence[str], masks: Sequence[str]) -> dict[NamingRule, int]:
    """For each rule that might be meant, the number of masks whose photo it finds."""
    suffixes = {""}
    words = {word.group() if (word := LAST_WORD.search(photo)) else "" for photo in photos}
    if len(words) == 1:
        suffixes |= words
    rules: Counter[NamingRule] = Counter()
    for mask in masks[:3]:  # a rule that explains most masks explains one of the first ones
        for photo in photos:
            for suffix in suffixes:
                name = photo.removesuffix(suffix)
                before, found, after = mask.partition(name)
                if found and name:
                    rules[NamingRule(before, after, suffix)] += 1
    stems = set(masks)
    return {rule: len(stems & {rule.mask_stem(photo) for photo in photos}) for rule in {NamingRule(), *rules}}


def _lengthens_number(rule: NamingRule, photos: Sequence[str]) -> bool:
    """Whether a digit of the rule stands next to a digit of a name."""
    names = [name for photo in photos if (name := photo.removesuffix(rule.photo_suffix))]
    return (rule.prefix[-1:].isdigit() and any(name[0].isdigit() for name in names)) or (
        rule.suffix[:1].isdigit() and any(name[-1].isdigit() for name in names)
    )
