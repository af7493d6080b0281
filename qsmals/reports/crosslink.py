"""The way from a subject's page back to the study's."""

from pathlib import Path

from qsmals.engine.files import write_text

GROUP_PAGE = "group.html"
HEADER_END = "\n</header>"
GROUP_LINK = f'\n  <p class="quiet"><a href="{GROUP_PAGE}">All subjects</a></p>'


def link_to_group(path: Path) -> bool:
    """Give a subject's page the link to the study's page beside it; whether it had to be written for that.

    Pages that were written before the study's have none, and a page from disk cannot ask what lies beside it.
    """
    html = path.read_text()
    if GROUP_LINK in html or HEADER_END not in html:
        return False
    write_text(path, html.replace(HEADER_END, GROUP_LINK + HEADER_END, 1))
    return True
