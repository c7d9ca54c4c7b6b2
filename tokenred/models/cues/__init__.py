"""Cues of a vision tower beside its features: attention, keys, pixels."""

from tokenred.models.cues.capture import CapturedCues, Tower, capture_cues
from tokenred.models.cues.names import Cue

__all__ = ["CapturedCues", "Cue", "Tower", "capture_cues"]
