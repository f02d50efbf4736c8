"""The stages of the pipeline, one module each.

A stage reads its inputs, does its work, writes its outputs: paths or URIs in, paths or URIs out, nothing in between.
The same word names the module here, the component, the pipeline task, the word on the command line and the test file.
"""

STAGES = (
    "fingerprint",
    "prepare",
    "split",
    "extract",
    "stack",
    "texts",
    "plan",
    "configure",
    "partition",
    "finetune",
    "index",
    "score",
    "merge",
    "evaluate",
    "tabulate",
    "survey",
    "divide",
    "judge",
    "collect",
)
"""Every stage, in the order in which data passes them; split, stack and merge let extract and score be several tasks,
plan, configure and tabulate compare several runs, the last four ask a detector about many images."""
