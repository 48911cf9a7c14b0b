"""The sheets of all sources with the pictures of their samples: chosen first, then each sample is drawn once."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.auditing.folder import OutputFolder
from pipeline.report.data import SourceData, load_rows
from pipeline.report.footage import Footage
from pipeline.report.found import Found
from pipeline.report.sheets import Entry, Sheet, limit_sheet, limited_scores, member_sheets, other_reasons, per_side, reason_sheet
from pipeline.report.thumbnails import Thumbnail, make_thumbnail

MOST_BYTES = 3_400_000  # of JPEG data; base64 makes 4.5 MB of it


@dataclass(frozen=True, slots=True)
class Picture:
    """What a tile shows: the number of a stored picture, or the text that stands in."""

    number: int | None
    width: int = 0
    height: int = 0
    missing: str = ""


class Gallery:
    """sheets[source name] in the order of the page; `picture` by entry."""

    def __init__(self, output: OutputFolder, sources: Sequence[SourceData]) -> None:
        wanted = {source.name: (limited_scores(source), other_reasons(source)) for source in sources}
        count = per_side(sum(len(scores) + len(reasons) for scores, reasons in wanted.values()))
        self.limit_sheets: dict[str, list[Sheet]] = {}
        self.reason_sheets: dict[str, list[Sheet]] = {}
        self._stored: list[Thumbnail] = []
        self._bytes = 0
        self._pictures: dict[tuple[str, str], Picture] = {}
        self._found = Found(output)
        self.member_sheets: dict[str, list[Sheet]] = {}
        for source in sources:
            scores, reasons = wanted[source.name]
            self.limit_sheets[source.name] = [limit_sheet(source, score, limits, count) for score, limits in scores.items()]
            self.reason_sheets[source.name] = [reason_sheet(source, reason, count) for reason in reasons]
            self.member_sheets[source.name] = member_sheets(source, count)
            self._draw(output, source.name)

    def picture(self, entry: Entry) -> Picture:
        return self._pictures[entry.sample_id, entry.member]

    def data_uris(self) -> list[str]:
        """The stored pictures, by number."""
        return [thumbnail.data_uri() for thumbnail in self._stored]

    def _draw(self, output: OutputFolder, source: str) -> None:
        sheets = self.limit_sheets[source] + self.reason_sheets[source] + self.member_sheets[source]
        shown = list(dict.fromkeys((entry.sample_id, entry.member) for sheet in sheets for entry in (*sheet.kept, *sheet.rejected)))
        rows = load_rows(output, sorted({sample_id for sample_id, _ in shown}))
        with Footage(output, source) as footage:
            for sample_id, member in shown:
                made = _FULL
                if self._bytes < MOST_BYTES:
                    arrays = self._found.arrays(rows[sample_id], member) if member else None
                    made = make_thumbnail(footage, rows[sample_id], member, arrays)
                self._pictures[sample_id, member] = self._add(made)

    def _add(self, thumbnail: Thumbnail) -> Picture:
        if thumbnail.jpeg is None:
            return Picture(None, missing=thumbnail.missing)
        self._stored.append(thumbnail)
        self._bytes += len(thumbnail.jpeg)
        return Picture(len(self._stored) - 1, thumbnail.width, thumbnail.height)


_FULL = Thumbnail(None, missing="left out to keep this file small")
