"""What stands behind `tritone optimize`: the settings to try, the search, the server that they are tried on, the table.

NVIDIA's Model Analyzer does not serve here. 1.58.0 pins optuna 3.6.1, where training wants 4 or newer; it starts a
`tritonserver` with options of its own, so without our launcher's `onnxruntime` backend for CPUs, and cannot load models
on a server of ours, whose admin APIs ask for a token in a header that it does not send; and what it finds ends in a
config.pbtxt of its own, which the next export would overwrite. The load is NVIDIA's perf_analyzer here too.
"""
