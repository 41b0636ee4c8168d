"""A report taken apart: its elements and its text, and whether all of them are the page's own."""

import json
import re
from html.parser import HTMLParser

TAGS = """article body br button dd div dl dt figcaption figure footer h1 h2 h3 head header html img li link main meta p path
    pre script section small span style svg table tbody td th thead title tr ul"""
ATTRIBUTES = """alt aria-hidden aria-label charset class content d data-copy data-p hidden href http-equiv id lang name
    preserveaspectratio rel role scope src style tabindex title type viewbox"""
VOID = {"meta", "link", "img", "br", "path"}


class Page(HTMLParser):
    """A page as elements and text; fails where tags do not nest."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self.open, self.stores = [], "", [], []
        self.feed(page)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.stores.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def points(self):
        return json.loads(self.stores[0])


def assert_sound(page):
    """Every element and attribute is one of the pages' own, and no value of those that do something is a user's."""
    assert {tag for tag, _ in page.elements} <= set(TAGS.split())
    assert {name for _, attributes in page.elements for name in attributes} <= set(ATTRIBUTES.split())
    assert [one["href"] for one in page.all("link")] == ["data:,"]
    for _, attributes in page.elements:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert re.fullmatch(
            r"((left|bottom|top|width|height|aspect-ratio):[\d./ %px]+;?)*", attributes.get("style", "")
        )
        assert re.fullmatch(r"[\w -]*", attributes.get("class", ""))
        assert re.fullmatch(r"[MLHVhv\d. -]*", attributes.get("d", ""))
