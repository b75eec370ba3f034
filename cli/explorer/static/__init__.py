"""Styles and scripts that come with the explorer."""

from pathlib import Path

STATIC = {
    path.name: path
    for path in Path(__file__).resolve().parent.iterdir()
    if path.suffix in (".css", ".js", ".svg")
}
