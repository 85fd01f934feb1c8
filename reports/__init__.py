"""What runs came to, as pictures, tables and plain values; finished or not, of agents, tasks and stages."""

from .report import Report, report

__all__ = ["Report", "report"]
