"""The stages of the pipeline, one module each.

A stage reads paths or URIs, does its work, and writes to paths or URIs. It has no other effect.
One name stands for the module here, the component, the pipeline task, the subcommand and the test file.
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

plan_shards, merge_features and merge_scores split extract and score into several tasks. plan_runs, unpack_run and
compare_runs compare several runs. The last four score many images with a trained detector.
"""
