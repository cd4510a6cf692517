"""How the samples of a run are explained: worker processes, the pipeline, one machine or Ray."""
