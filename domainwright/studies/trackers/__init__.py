"""One file per tracker: where the figures of a run are kept besides its folder.

A file registers one class that has

    libraries                       what must be installed; the extra of its name brings it
    __init__(name, folder, known)   open, or go on with what has the identity `known`; what the
                                    tracker keeps by itself lies in `folder`
    identity                        of what was opened, for a study that is resumed
    parameters(values)              {setting: value in words}, once
    metrics(run, lines)             (step, {name: value}) of a training run, in order
    result(strategy, values)        {name: value} of one strategy
    files(paths, sentence)          what was decided, and in which files it stands
    close(finished)                 nothing comes after it

It may raise whatever its library raises: a tracker that fails is dropped with a warning.
"""

from domainwright.core.registry import Folder

TRACKERS: Folder = Folder("domainwright.studies.trackers", "tracker")
EXPERIMENT = "domainwright"
"""What trackers with projects or experiments call ours."""
