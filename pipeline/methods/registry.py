"""The methods by name, and for each command the modules of their options, which import torch only when they run.

All offer `add_options(parser)`; their docstring, and EPILOG where they have one, are the command's help.
"""

# `defaults(base_name)` -> settings, `build(base, options)` -> a TrainingMethod.
TRAINING: dict[str, str] = {
    "syncammaster": "pipeline.methods.syncammaster.training_options",
    "text_to_video": "pipeline.methods.text_to_video.training_options",
}
# `prepare(options)` -> an object with describe(), load(), run() and less_memory().
INFERENCE: dict[str, str] = {"syncammaster": "pipeline.methods.syncammaster.inference"}
# `run(options)` -> results with `lines` and `left_out`.
EVALUATION: dict[str, str] = {"syncammaster": "pipeline.methods.syncammaster.evaluation_options"}
