"""Attention maps of a prompt's phrases: of which places there are some, their names, and what they say of masks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from realign_cli.equations.attention_maps import share_inside
from realign_cli.pictures import MapColumn, map_grid
from realign_cli.records import PhraseMap, WordMap
from realign_cli.roles import ATTENTION_MAPS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from realign_cli.roles import NounPhrase, Region, Span

Maps = Mapping[str, "NDArray[np.float32]"]  # by `name_of` their place
BEFORE, AFTER = "before ", "after "  # before the name of a map, where there are both


def name_of(prompt: str, span: Span) -> str:
    """What the map of a place is called: "2:5 red" of the characters 2 up to 5."""
    return f"{span[0]}:{span[1]} {prompt[slice(*span)]}"


def places(prompt: str, phrases: Sequence[NounPhrase], words: Sequence[str]) -> tuple[Span, ...]:
    """The places of a prompt that have maps: noun phrases, each before its attributes, and all those of other words."""
    found = [span for phrase in phrases for span in (phrase.span, *phrase.modifiers)]
    for word in words:
        whole = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
        found += [match.span() for match in whole.finditer(prompt)]
    return tuple(dict.fromkeys(found))


def maps_of(prompt: str, image: Image) -> dict[str, NDArray[np.float32]]:
    """The maps that a generator gives with an image, by name."""
    return {name_of(prompt, span): one for span, one in image.info.get(ATTENTION_MAPS, {}).items()}


def both(before: Maps, after: Maps) -> dict[str, NDArray[np.float32]]:
    """Maps before and after under one roof."""
    return {when + name: one for when, maps in ((BEFORE, before), (AFTER, after)) for name, one in maps.items()}


def shares(
    prompt: str, phrases: Sequence[NounPhrase], regions: Sequence[Region], before: Maps, after: Maps
) -> list[PhraseMap]:
    """Of each phrase that speaks of an object with a mask, how much of its map and its attributes' lies in the mask."""
    found = []
    for phrase in phrases:
        mask = mask_of(prompt, phrase, regions)
        if mask is None:
            continue
        words = [_share(prompt, span, mask, before, after) for span in (phrase.span, *phrase.modifiers)]
        if words[0]:
            whole = words[0].model_dump(exclude_unset=True)
            attributes = [one for one in words[1:] if one]
            found.append(PhraseMap(**whole, area=float(mask.mean()), attributes=attributes))
    return found


def _share(prompt: str, span: Span, mask: NDArray[np.bool_], before: Maps, after: Maps) -> WordMap | None:
    """How much of the map of a place lies in a mask; None where there is none after."""
    name = name_of(prompt, span)
    if name not in after:
        return None
    inside = torch.from_numpy(mask)
    own = WordMap(words=prompt[slice(*span)], place=span, after=share_inside(torch.from_numpy(after[name]), inside))
    if name not in before:
        return own
    return own.model_copy(update={"before": share_inside(torch.from_numpy(before[name]), inside)})


def mask_of(prompt: str, phrase: NounPhrase, regions: Sequence[Region]) -> NDArray[np.bool_] | None:
    """Where what a noun phrase names is: the regions whose phrases hold its head, the shortest if there are several."""

    def holds(region: Region) -> bool:
        matches = re.finditer(re.escape(region.phrase), prompt) if region.phrase else ()
        return any(match.start() <= phrase.head[0] and phrase.head[1] <= match.end() for match in matches)

    own = [region for region in regions if holds(region)]
    shortest = min((len(region.phrase) for region in own), default=0)
    masks = [region.mask for region in own if len(region.phrase) == shortest]
    return np.logical_or.reduce(masks) if masks else None


def picture(
    prompt: str,
    rows: Sequence[tuple[str, Image, Maps]],
    phrases: Sequence[NounPhrase] = (),
    regions: Sequence[Region] = (),
) -> Image:
    """Of each row's image the maps that it has, laid over it; the outlines are those of the masks of their phrases."""
    names = list(dict.fromkeys(name for _, _, maps in rows for name in maps))
    outlines = dict(_outlines(prompt, phrases, regions))
    columns = [
        MapColumn(name.partition(" ")[2], [maps.get(name) for _, _, maps in rows], outlines.get(name)) for name in names
    ]
    return map_grid(prompt, [(title, image) for title, image, _ in rows], columns)


def _outlines(
    prompt: str, phrases: Sequence[NounPhrase], regions: Sequence[Region]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for phrase in phrases:
        mask = mask_of(prompt, phrase, regions)
        if mask is not None:
            yield from ((name_of(prompt, span), mask) for span in (phrase.span, *phrase.modifiers))
