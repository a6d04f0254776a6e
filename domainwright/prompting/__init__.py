"""Strategies that change no weight. One file each, registered by its name.

A file registers one class that has

    summary                 one line
    needs                   what it cannot do without: "examples", "documents"
    __init__(sources)       prepare once per study
    prompt(row) -> Prompt   how this item is asked
"""

from domainwright.core.registry import Folder

PROMPTINGS: Folder = Folder("domainwright.prompting", "prompting strategy")
