"""Exams: one file per kind of test item.

A file registers one class that has

    version     an integer; scores of two versions are not compared
    scores      names of the scores a study can be decided by, the default first
    run(base, rows, prompts, score, new_tokens, listen) -> list of Item
"""

from domainwright.core.registry import Folder

TASKS: Folder = Folder("domainwright.evaluate.tasks", "task")
