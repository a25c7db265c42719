"""One loop, and what makes it safe to interrupt: run folders, metrics logs, checkpoints.

`loop.fit` trains by epochs, `steps.Loop` by steps, both on the examples of `batches.Batches`. `run_folder.RunFolder` is
where they write; `checkpoint.save` and `load` are usable alone.
"""
