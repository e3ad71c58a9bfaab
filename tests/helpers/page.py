"""Reading the summary page without a browser: its tables, its texts and its data."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """A page of HTML.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        """By id, the texts of the cells of each row, the header first."""
        self.attributes: dict[str, list[dict[str, str | None]]] = {}
        """By name of the element, the attributes of each."""
        self.scripts: dict[str, Any] = {}
        """By id, the JSON that a script holds."""
        self.text = ""
        """All that is to be read, without scripts and styles."""
        self._rows: list[list[str]] = []
        self._script: str | None = None
        self._unread = 0
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.attributes.setdefault(tag, []).append(given)
        self._unread += tag in ("script", "style")
        if tag == "table":
            self._rows = []
            self.tables[given.get("id") or f"table {len(self.tables)}"] = self._rows
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._in_cell = True
        elif tag == "script" and given.get("type") == "application/json":
            self._script = given["id"]

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in ("script", "style")
        self._script = None
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = json.loads(data)
        if not self._unread:
            self.text += data
            if self._in_cell:
                self._rows[-1][-1] += data

    def values(self, chart: str) -> list[dict[str, Any]]:
        """The rows of data of a chart."""
        rows: list[dict[str, Any]] = self.scripts["chart-data"]["specs"][chart]["data"]["values"]
        return rows
