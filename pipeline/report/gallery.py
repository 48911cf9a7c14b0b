"""The sheets of all sources with the pictures of their samples: chosen first, then each sample is drawn once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.auditing.folder import OutputFolder
from pipeline.report.camera_view import spread
from pipeline.report.data import SourceData, load_rows
from pipeline.report.footage import Footage
from pipeline.report.found import Found
from pipeline.report.sheets import Entry, Sheet, limit_sheet, limited_scores, member_sheets, other_reasons, per_side, reason_sheet
from pipeline.report.thumbnails import Thumbnail, make_thumbnail

MOST_BYTES = 2_600_000  # of JPEG data for the sheets; base64 makes a third more of it
MOST_MORE = 96  # pictures for the table of samples beside those of the sheets
MOST_MORE_BYTES = 2_900_000  # of both


@dataclass(frozen=True, slots=True)
class Picture:
    """What a tile shows: the number of a stored picture, or the text that stands in."""

    number: int | None
    width: int = 0
    height: int = 0
    missing: str = ""


class Gallery:
    """sheets[source name] in the order of the page; `picture` by entry; `numbers` by sample id, of its plain picture or another.

    listed: sample ids by source, for some of which pictures are drawn beyond those of the sheets.
    """

    def __init__(self, output: OutputFolder, sources: Sequence[SourceData], listed: Mapping[str, Sequence[str]]) -> None:
        wanted = {source.name: (limited_scores(source), other_reasons(source)) for source in sources}
        count = per_side(sum(len(scores) + len(reasons) for scores, reasons in wanted.values()))
        self.limit_sheets: dict[str, list[Sheet]] = {}
        self.reason_sheets: dict[str, list[Sheet]] = {}
        self._stored: list[Thumbnail] = []
        self._bytes = 0
        self.complete = True  # False where a picture is missing that there may be another time
        self._pictures: dict[tuple[str, str], Picture] = {}
        self._found = Found(output)
        self.member_sheets: dict[str, list[Sheet]] = {}
        for source in sources:
            scores, reasons = wanted[source.name]
            self.limit_sheets[source.name] = [limit_sheet(source, score, limits, count) for score, limits in scores.items()]
            self.reason_sheets[source.name] = [reason_sheet(source, reason, count) for reason in reasons]
            self.member_sheets[source.name] = member_sheets(source, count)
            self._draw(output, source.name, listed[source.name], MOST_MORE // max(1, len(sources)))

    def picture(self, entry: Entry) -> Picture:
        return self._pictures[entry.sample_id, entry.member]

    @property
    def numbers(self) -> dict[str, int]:
        """The stored picture of each sample that has one; without an overlay where there are several."""
        ordered = sorted(self._pictures.items(), key=lambda item: item[0][1] != "")
        found: dict[str, int] = {}
        for (sample_id, _), picture in ordered:
            if picture.number is not None:
                found.setdefault(sample_id, picture.number)
        return found

    def data_uris(self) -> list[str]:
        """The stored pictures, by number."""
        return [thumbnail.data_uri() for thumbnail in self._stored]

    def _draw(self, output: OutputFolder, source: str, listed: Sequence[str], more: int) -> None:
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
            without = [sample_id for sample_id in listed if (sample_id, "") not in self._pictures]
            chosen = [without[i] for i in spread(len(without), more)]
            rows = load_rows(output, chosen)
            for sample_id in chosen:
                if self._bytes < MOST_MORE_BYTES:
                    self._pictures[sample_id, ""] = self._add(make_thumbnail(footage, rows[sample_id]))

    def _add(self, thumbnail: Thumbnail) -> Picture:
        if thumbnail.jpeg is None:
            self.complete &= not thumbnail.passing
            return Picture(None, missing=thumbnail.missing)
        self._stored.append(thumbnail)
        self._bytes += len(thumbnail.jpeg)
        return Picture(len(self._stored) - 1, thumbnail.width, thumbnail.height)


_FULL = Thumbnail(None, missing="left out to keep this file small")
