"""How fast a model runs here: jobs against the machine's own peak, and against a plain frame-by-frame run."""

from .report import BenchmarkOptions, run_benchmark, table

__all__ = ["BenchmarkOptions", "run_benchmark", "table"]
