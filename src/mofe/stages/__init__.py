"""The stages of the pipeline, one module each.

A stage reads its inputs, does its work, writes its outputs: paths or URIs in, paths or URIs out, nothing in between.
The same word names the module here, the component, the pipeline task, the word on the command line and the test file.
"""

STAGES = (
    "fingerprint",
    "prepare",
    "check_classes",
    "plan_shards",
    "extract",
    "merge_features",
    "texts",
    "plan_runs",
    "unpack_run",
    "partition",
    "finetune",
    "index",
    "score",
    "merge_scores",
    "evaluate",
    "compare_runs",
    "fingerprint_batch",
    "list_files",
    "predict",
    "merge_predictions",
)
"""Every stage, in the order in which data passes them.

plan_shards, merge_features and merge_scores let extract and score be several tasks; plan_runs, unpack_run and
compare_runs compare several runs; the last four score many images with a trained detector.
"""
