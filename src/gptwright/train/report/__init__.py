"""The page and the terminal picture that a run leaves behind."""

from gptwright.train.report.page import write_report
from gptwright.train.report.terminal import loss_curve_text

__all__ = ["loss_curve_text", "write_report"]
