"""Damage bytes in the ways in which files are damaged: flipped, cut, emptied, moved, overstated."""

from collections.abc import Callable
from random import Random

EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEAD = 2048


def damaged(data: bytes, random: Random) -> bytes:
    """Return a file with one to four faults in it."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if found:
            random.choice(KINDS)(found, random)
    return bytes(found)


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 4, 20, 100))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _flip_the_head(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 4, 20))):
        data[random.randrange(min(len(data), HEAD))] = random.randrange(256)


def _overstate(data: bytearray, random: Random) -> None:
    """Put an extreme number somewhere, as sizes and counts are stored."""
    width = random.choice((2, 4, 8))
    at = random.randrange(min(len(data), random.choice((HEAD, len(data)))))
    number = random.choice(EXTREMES) % 256**width
    data[at : at + width] = number.to_bytes(width, random.choice(("big", "little")))


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(1, len(data) + 1) :]


def _empty(data: bytearray, random: Random) -> None:
    at, length = _part(data, random)
    data[at : at + length] = bytes(length)


def _lose(data: bytearray, random: Random) -> None:
    at, length = _part(data, random)
    del data[at : at + length]


def _repeat(data: bytearray, random: Random) -> None:
    at, length = _part(data, random)
    data[at:at] = data[at : at + length]


def _part(data: bytearray, random: Random) -> tuple[int, int]:
    at = random.randrange(len(data))
    return at, min(random.choice((1, 16, 188, 1000, 4096)), len(data) - at)


KINDS: tuple[Callable[[bytearray, Random], None], ...] = (
    _flip,
    _flip_the_head,
    _overstate,
    _cut,
    _empty,
    _lose,
    _repeat,
)
