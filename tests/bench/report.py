"""A bench's figures: what each is, as a table for people and as JSON for programs."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One thing that was measured, beside the same thing done the other way where there is one."""

    name: str
    unit: str
    samples: tuple[float, ...]
    command: str
    """What measures it again."""
    baseline_samples: tuple[float, ...] = ()
    aim: str = ""
    quantile: float = 0.5
    """Which of the samples the value is; the median unless it says another, as 0.99."""

    @property
    def value(self) -> float:
        return quantile(self.samples, self.quantile)

    @property
    def baseline(self) -> float | None:
        return quantile(self.baseline_samples, self.quantile) if self.baseline_samples else None

    @property
    def ratio(self) -> float | None:
        """None where there is nothing to compare with, or where that is nothing."""
        return self.value / self.baseline if self.baseline else None

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.value - self.baseline

    def as_data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "baseline": _rounded(self.baseline),
            "ratio": _rounded(self.ratio),
            "command": self.command,
            "samples": [_rounded(sample) for sample in self.samples],
            "baseline_samples": [_rounded(sample) for sample in self.baseline_samples],
        }


def quantile(samples: Sequence[float], share: float) -> float:
    """The median, or the smallest sample that at least this share of them does not exceed."""
    if share == 0.5:
        return statistics.median(samples)
    return sorted(samples)[math.ceil(share * len(samples)) - 1]


def write(figures: Iterable[Figure], path: Path) -> None:
    """As a list of objects. Whoever reads it meanwhile finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps([figure.as_data() for figure in figures], indent=2) + "\n")
    temporary.replace(path)


def table(figures: Iterable[Figure]) -> str:
    """In Markdown, so that it can be pasted: medians, with the least and the most in brackets."""
    rows = [["measured", "oCore", "by hand", "ratio", "difference", "aim"]]
    for figure in figures:
        rows.append(
            [
                figure.name,
                _shown(figure.value, figure.samples, figure.unit),
                "" if figure.baseline is None else _shown(figure.baseline, figure.baseline_samples, figure.unit),
                "" if figure.ratio is None else f"{figure.ratio:.2f}",
                "" if figure.difference is None else f"{figure.difference:+.{_digits(figure.unit)}f} {figure.unit}",
                figure.aim,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _shown(value: float, samples: Sequence[float], unit: str) -> str:
    digits = _digits(unit)
    text = f"{value:.{digits}f} {unit}"
    return f"{text} ({min(samples):.{digits}f} to {max(samples):.{digits}f})" if len(samples) > 1 else text


def _digits(unit: str) -> int:
    return {"s": 2, "ms": 1, "%": 2, "times": 1}.get(unit, 0)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
