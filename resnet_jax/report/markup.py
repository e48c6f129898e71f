"""Text in HTML."""

import html

from resnet_jax.report.records import printable


def escape(text: str) -> str:
    """Text that stands for itself in HTML, between tags and in quoted attributes."""
    return html.escape(printable(text), quote=True)
