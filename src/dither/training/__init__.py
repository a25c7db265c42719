"""One loop, and what makes it safe to interrupt: run folders, metrics logs, checkpoints.

`loop.fit` trains; `run_folder.RunFolder` is where it writes; `checkpoint.save` and `load` are usable alone.
"""
