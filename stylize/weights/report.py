"""What an import took from where, and what begins anew, to the last key."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PartReport:
    """One part of the stylizer: `tensors` of them from `keys` of `source`, the others begun anew.

    `started`: what those begin as -> how many.
    """

    part: str
    source: str = ""
    keys: int = 0
    tensors: int = 0
    started: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class SourceReport:
    """What of a source was left: keys `ignored` by reason, and `unused` parts by their keys."""

    source: str
    ignored: Counter[str]
    unused: dict[str, int]


@dataclass(frozen=True)
class ImportReport:
    parts: tuple[PartReport, ...]
    sources: tuple[SourceReport, ...]

    def table(self) -> str:
        """Both lists as lines of text."""
        rows = [("part", "tensors", "keys", "from")]
        for part in self.parts:
            begun = ", ".join(f"{count} {what}" for what, count in part.started.items())
            rows.append(
                (
                    part.part,
                    str(part.tensors + part.started.total()),
                    str(part.keys or "-"),
                    " + ".join(filter(None, [part.source, begun and f"new: {begun}"])),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{part:<{widths[0]}}  {tensors:>{widths[1]}}  {keys:>{widths[2]}}  {source}"
            for part, tensors, keys, source in rows
        ]
        for left in self.sources:
            reasons = [f"{count} {why}" for why, count in sorted(left.ignored.items())]
            reasons += [f"{count} of its {part}" for part, count in left.unused.items()]
            if reasons:
                lines.append(f"left out of {left.source}: {', '.join(reasons)}")
        return "\n".join(lines)
