"""Where the numbers of a run go besides its own folder."""

from gptwright.train.track.base import TRACKER, TrackedRun, Tracker
from gptwright.train.track.trackers import Trackers, open_trackers, refuse_missing

__all__ = ["TRACKER", "TrackedRun", "Tracker", "Trackers", "open_trackers", "refuse_missing"]
