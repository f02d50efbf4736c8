"""The stages of the pipeline, one module each.

A stage reads its inputs, does its work, writes its outputs: paths or URIs in, paths or URIs out, nothing in between.
The same word names the module here, the component, the pipeline task, the word on the command line and the test file.
"""

STAGES = (
    "fingerprint",
    "prepare",
    "extract",
    "texts",
    "plan",
    "configure",
    "partition",
    "finetune",
    "index",
    "score",
    "evaluate",
    "tabulate",
    "survey",
    "divide",
    "judge",
    "collect",
)
"""Every stage, in the order in which data passes them; plan, configure and tabulate compare several runs, the last four
ask a detector about many images."""
